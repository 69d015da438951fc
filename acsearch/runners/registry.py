"""Which runner a study has."""

from __future__ import annotations

from pathlib import Path

from acsearch.config.study_file import Source, load_source, load_study
from acsearch.runners.base import Runner
from acsearch.runners.recorded import RecordedRunner


def make_runner(source: Source, work: Path, store: str | None = None) -> Runner:
    """What a study of this source searches. work: folder for what training makes.  store: URL that shares it."""
    if source.study is None:
        return RecordedRunner(load_source(source))
    from acsearch.runners.training import TrainingRunner  # here, because only studies that train need torch

    return TrainingRunner(load_study(source.study), work, store)
