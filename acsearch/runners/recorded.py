"""Finetunes that somebody ran before, looked up in a table."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from acsearch.runners.base import CandidateScores, Observation
from acsearch.tables.table import Table
from trainers.utils.progress import Reporter


@dataclass(frozen=True, eq=False)
class RecordedRunner:
    """Finetunes that somebody ran before, looked up in a table."""

    table: Table
    parallel: int = 1
    processes: int = 1

    def score(self, candidate: int, say: Reporter) -> CandidateScores:
        correspondence = float(self.table.correspondence[candidate])
        known = None if math.isnan(correspondence) else correspondence
        return CandidateScores(tuple(self.table.alignment[candidate].tolist()), known)

    def finetune(self, candidate: int, trial: int, run: str | None, say: Reporter) -> Observation:
        started = time.perf_counter()
        scores = dict(zip(self.table.benchmarks, self.table.scores[candidate].tolist(), strict=True))
        known = zip(self.table.benchmarks, self.table.errors[candidate].tolist(), strict=True)
        errors = {benchmark: error for benchmark, error in known if not math.isnan(error)}
        return Observation(scores, time.perf_counter() - started, errors)

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        return None

    def work(self, candidate: int, *, finetuned: bool) -> list[Path]:
        return []

    def fetch(self, candidate: int, *, finetuned: bool, checkpoints: bool) -> None:
        pass

    def model(self, candidate: int) -> Path | None:
        return None

    def cleanup(self) -> None:
        pass
