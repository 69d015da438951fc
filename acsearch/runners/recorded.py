"""Finetunes that somebody ran before, looked up in a table."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from acsearch.runners.base import CandidateScores, Observation, Progress
from acsearch.tables.table import Table


@dataclass(frozen=True, eq=False)
class RecordedRunner:
    """Looks candidates up in a table."""

    table: Table

    def score(self, candidate: int, progress: Progress) -> CandidateScores:
        correspondence = float(self.table.correspondence[candidate])
        known = None if math.isnan(correspondence) else correspondence
        return CandidateScores(tuple(self.table.alignment[candidate].tolist()), known)

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        started = time.perf_counter()
        scores = dict(zip(self.table.benchmarks, self.table.scores[candidate].tolist(), strict=True))
        known = zip(self.table.benchmarks, self.table.errors[candidate].tolist(), strict=True)
        errors = {benchmark: error for benchmark, error in known if not math.isnan(error)}
        return Observation(scores, time.perf_counter() - started, errors)


class NoArtifacts:
    """Nothing is left of finetunes that were looked up."""

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        return None

    def dropped(self, candidate: int, trial: int | None) -> list[str]:
        return []

    def files(self, candidate: int, *, finetuned: bool) -> list[Path]:
        return []

    def fetch(self, candidate: int, *, finetuned: bool, checkpoints: bool) -> None:
        pass

    def model(self, candidate: int) -> Path | None:
        return None

    def cleanup(self) -> None:
        pass
