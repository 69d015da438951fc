"""The seam between the search and what it searches: where A and C come from, and what a finetune scored.

A study whose finetunes are looked up in a recorded table is `RecordedFinetunes`. Real training is another class with
the same two methods; nothing else in the search changes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from acsearch.table import Table


@dataclass(frozen=True)
class Observation:
    """One finetune on all benchmarks. scores: in points, by benchmark.  seconds: wall clock."""

    scores: dict[str, float]
    seconds: float


class Finetunes(Protocol):
    """What a study can score and finetune."""

    def pool(self) -> Table:
        """Every candidate with its A and C. Its `scores` are only for finetuned candidates to be read."""
        ...

    def finetune(self, candidate: int, trial: int) -> Observation:
        """Finetune and evaluate a candidate. Called again for the same trial, it takes up where it was interrupted."""
        ...


@dataclass(frozen=True, eq=False)
class RecordedFinetunes:
    """Finetunes that somebody ran before, looked up in a table."""

    table: Table

    def pool(self) -> Table:
        return self.table

    def finetune(self, candidate: int, trial: int) -> Observation:
        started = time.perf_counter()
        scores = dict(zip(self.table.benchmarks, self.table.scores[candidate].tolist(), strict=True))
        return Observation(scores, time.perf_counter() - started)
