"""The seam between the search and what it searches: where A and C come from, and what a finetune scored.

A study whose finetunes are looked up in a recorded table is `RecordedFinetunes`; one that trains is
`acsearch.runners.training.TrainingRunner`. Nothing else in the search differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainers.utils.progress import Reporter


@dataclass(frozen=True)
class CandidateScores:
    """A and C of a candidate. alignment: one for each benchmark.  correspondence: None where it is not measured.

    details: the same measured otherwise, for the record.  seconds: wall clock.
    """

    alignment: tuple[float, ...]
    correspondence: float | None
    seconds: float = 0.0
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """One finetune on all benchmarks. scores and their standard errors: in points, by benchmark; an error is None
    where the benchmark gives none.  seconds: wall clock.  checkpoint: folder of the trained model, or its address in
    the work store."""

    scores: dict[str, float]
    seconds: float
    errors: dict[str, float | None] = field(default_factory=dict)
    checkpoint: str | None = None


class Runner(Protocol):
    """What a study can score and finetune. Both take up where they were interrupted when they are called again.

    parallel: how many candidates to score at a time, each in a process of its own.  processes: of one training run.
    """

    @property
    def parallel(self) -> int: ...

    @property
    def processes(self) -> int: ...

    def score(self, candidate: int, say: Reporter) -> CandidateScores:
        """Measure a candidate's A and C."""
        ...

    def finetune(self, candidate: int, trial: int, run: str | None, say: Reporter) -> Observation:
        """Finetune and evaluate a candidate. run: id of its MLflow run, written beside its checkpoints."""
        ...

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        """The metrics that a stage logged: of the connector (trial None) or the finetune; see `trainers.training`."""
        ...

    def work(self, candidate: int, *, finetuned: bool) -> list[Path]:
        """What the work folder holds of a candidate, or would: folders of stages, and files of scores."""
        ...

    def fetch(self, candidate: int, *, finetuned: bool, checkpoints: bool) -> None:
        """Bring to the work folder what only the work store has of a candidate."""
        ...

    def model(self, candidate: int) -> Path | None:
        """The folder of a finetuned candidate's model, brought here if it lies elsewhere; None where there is none."""
        ...

    def cleanup(self) -> None:
        """Remove what processes that were killed left in the work folder and nobody needs."""
        ...
