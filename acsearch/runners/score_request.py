"""The measurement of one score of a candidate, as a file that ranks read; and a rank's share of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from acsearch.config.training import TrainingConfig
from acsearch.runners.measurements import Measurements
from acsearch.runners.work_folder import WorkFolder
from trainers.checkpoints.work_store import open_store
from trainers.errors import TrainingError
from trainers.ranks import preemption
from trainers.ranks.group import working_in
from trainers.ranks.progress_file import telling
from trainers.representation import parse
from trainers.utils.regular_files import read_text
from trainers.utils.strict_yaml import StrictModel

Score = Literal["correspondence", "alignment"]


class ScoreRequest(StrictModel):
    """What is measured.

    Attributes:
        score: C or A.
        representation: name of the candidate, with its connector.
        training: the `training` part of the study file.
        home: folder of the study file.
        work: the work folder.
        store: fsspec URL of the work store; None for none.
    """

    score: Score
    representation: str
    training: TrainingConfig
    home: Path
    work: Path
    store: str | None = None


def read_request(path: Path) -> ScoreRequest:
    """Read a request that was written as JSON.

    Raises:
        TrainingError: the file cannot be read, or is not a request.
    """
    try:
        return ScoreRequest.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not a request for a score: {error}") from error


def measure_as_rank(request: ScoreRequest, task: Path) -> None:
    """Do a rank's share of a measurement.

    Args:
        request: what is measured.
        task: folder of the ranks.
    """
    with working_in(task) as group, telling(task, group, f"{request.score}, loading") as report:
        folder = WorkFolder(request.training, request.home, request.work, request.store)
        store = open_store(folder.shared)
        measurements = Measurements(
            folder,
            parse(request.representation),
            store,
            group=group,
            check=lambda: preemption.check(task),
            report=lambda text: report(f"{request.score}, {text}"),
        )
        measurements.correspondence() if request.score == "correspondence" else measurements.alignment()
        store.drain()
