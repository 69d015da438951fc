"""The seam between the search and what it searches: where A and C come from, and what a finetune scored.

A study whose finetunes are looked up in a recorded table has a `RecordedRunner`; one that trains has a
`TrainingRunner`. Nothing else in the search differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Measurement:
    """A score of one candidate.

    Attributes:
        value: the score, in the unit of its definition.
        standard_error: of the value, in the same unit; None where the definition gives none.
        details: the same measured otherwise, by name, for the record.
    """

    value: float
    standard_error: float | None = None
    details: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Measurement:
        """The inverse of `to_json`. Older files have None for what was not measured."""
        known = {key: value for key, value in stored.items() if value is not None}
        return cls(known.pop("value"), known.pop("standard_error", None), known)

    def to_json(self) -> dict[str, float]:
        """One flat dictionary: `value`, `standard_error` where there is one, and the details."""
        error = {} if self.standard_error is None else {"standard_error": self.standard_error}
        return {"value": self.value} | error | self.details


@dataclass(frozen=True)
class CandidateScores:
    """A and C of a candidate, as they are kept with the study.

    Attributes:
        alignment: A for each benchmark of the study.
        correspondence: C, or None where the study does not measure it.
        seconds: wall clock of the measurement.
        details: the same scores measured otherwise, as `A/name` and `C/name`.
    """

    alignment: tuple[float, ...]
    correspondence: float | None
    seconds: float = 0.0
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """One finetune's scores on all benchmarks.

    Attributes:
        scores: points by benchmark.
        seconds: wall clock of training and evaluation.
        errors: standard errors in points by benchmark; None where a benchmark gives none.
        checkpoint: folder of the trained model, or its address in the work store; None where nothing was trained.
    """

    scores: dict[str, float]
    seconds: float
    errors: dict[str, float | None] = field(default_factory=dict)
    checkpoint: str | None = None


class Progress(Protocol):
    """What a runner calls while it works."""

    def report(self, text: str) -> None:
        """Say what is going on, for a person who waits."""
        ...

    def heartbeat(self) -> None:
        """Check that the work is still ours; called at each step, and free.

        Raises:
            LeaseLostError: somebody else has taken the work over.
        """
        ...


class Runner(Protocol):
    """Scores and finetunes candidates. Both calls take up where they were interrupted when they are made again."""

    def score(self, candidate: int, progress: Progress) -> CandidateScores:
        """Measure A and C.

        Args:
            candidate: row of the study's table.
            progress: is told what is going on.

        Raises:
            CandidateError: this candidate cannot be trained.
        """
        ...

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        """Finetune and evaluate.

        Args:
            candidate: row of the study's table.
            trial: number of the study's trial, written beside the checkpoints.
            run: id of the finetune's MLflow run, written beside the checkpoints as well; None for none.
            progress: is told what is going on.

        Raises:
            CandidateError: this candidate cannot be trained.
        """
        ...


class Artifacts(Protocol):
    """What a study's runner has left in the work folder, and in the work store."""

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        """The metrics that a stage logged: the connector's (trial None) or the finetune's; see `trainers.training`."""
        ...

    def dropped(self, candidate: int, trial: int | None) -> list[str]:
        """Names of the rows of its data that a stage left out; none while it has no result. See `logs`."""
        ...

    def files(self, candidate: int, *, finetuned: bool) -> list[Path]:
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
