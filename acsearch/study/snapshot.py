"""What is known about a study at one moment: its finetunes, and what the law believed after each.

Derived from the storage alone and the same wherever it is derived, so the MLflow record and the report can be made
again at any time. Whatever policy proposes, the recommendation is the Bayesian law's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np

from acsearch.law.bayes import HierarchicalLaw, Posterior, objective_weights
from acsearch.law.features import Array, Features
from acsearch.law.prior import Prior
from acsearch.policies.recommendation import Recommendation, recommend
from acsearch.study.attempts import Attempt, Submission
from acsearch.tables.table import Table, is_scored


@dataclass(frozen=True, eq=False)
class Step:
    """What was known after some finetunes.

    Attributes:
        number: of the finetunes.
        posterior: the law's, fitted to them.
        recommendation: what follows from it.
        time: of the last of them, or of the study's start.
    """

    number: int
    posterior: Posterior
    recommendation: Recommendation
    time: datetime


@dataclass(frozen=True)
class FinetuneRecord:
    """One trial of the study.

    Attributes:
        trial: its number, from 0.
        candidate: row of the study's table; None until it is proposed.
        representation: the candidate's name; empty until it is proposed.
        state: "complete", "running", "interrupted" (nobody works on it), "failed" (it cannot be trained), or "waiting"
            (somebody enqueued it).
        points: scores in points by benchmark; empty until it is finished.
        errors: standard errors of these, None where a benchmark gives none.
        seconds: wall clock of training and evaluation.
        checkpoint: folder or address of the trained model; None where nothing was trained.
        run: id of its MLflow run.
        objective: what the study maximises, scaled; None until it is finished.
        started: when it was asked for, with time zone.
        finished: when it was told, with time zone.
        owner: who works on it now.
        attempts: at it, oldest first.
        submission: the job that it was last handed to.
    """

    trial: int
    candidate: int | None
    representation: str
    state: str
    points: dict[str, float]
    errors: dict[str, float | None]
    seconds: float | None
    checkpoint: str | None
    run: str | None
    objective: float | None
    started: datetime
    finished: datetime | None
    owner: str | None = None
    attempts: tuple[Attempt, ...] = ()
    submission: Submission | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A study as its storage holds it at one moment.

    Attributes:
        name: of the study.
        title: for people.
        table: the candidates, with the A and C that are known.
        objective: "mean", or the benchmark that counts.
        policy: name of what proposes.
        prior: of the Bayesian law.
        seed: of the policy's randomness.
        budget: finetunes that may be started.
        started: when the study was, with time zone.
        started_text: the same as it is kept, by which the study's MLflow runs are found.
        finetunes: its trials, in order.
        memory: steps that were worked out before, by the trials that they know.
    """

    name: str
    title: str
    table: Table
    objective: str
    policy: str
    prior: Prior
    seed: int
    budget: int
    started: datetime
    started_text: str
    finetunes: tuple[FinetuneRecord, ...]
    memory: dict[tuple[int, ...], Step] = field(default_factory=dict, repr=False)  # steps worked out before

    @property
    def weights(self) -> Array:
        """(M,) of the benchmarks in the objective."""
        return objective_weights(self.table.benchmarks, self.objective)

    @property
    def finished(self) -> tuple[FinetuneRecord, ...]:
        """Finished finetunes in the order in which they finished."""
        done = [record for record in self.finetunes if record.points]
        return tuple(sorted(done, key=lambda record: (record.finished or record.started, record.trial)))

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent and nothing goes on."""
        over = [record for record in self.finetunes if record.state in ("complete", "failed")]
        return len(over) >= self.budget

    @cached_property
    def is_scored(self) -> bool:
        """Whether every candidate's A is known; before that, there is no law and no step."""
        return is_scored(self.table)

    @cached_property
    def features(self) -> Features:
        return Features.of(self.table)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What was known before the first finetune and after each. Empty until every candidate has been scored."""
        steps: list[Step] = []
        if not self.is_scored:
            return ()
        for number in range(len(self.finished) + 1):
            key = tuple(record.trial for record in self.finished[:number])
            if key not in self.memory:
                self.memory[key] = self._step(number)
            steps.append(self.memory[key])
        return tuple(steps)

    def _step(self, number: int) -> Step:
        records = self.finished[:number]
        observed = np.array(
            sorted(record.candidate for record in records if record.candidate is not None), dtype=np.intp
        )
        points = {record.candidate: [record.points[name] for name in self.table.benchmarks] for record in records}
        scores = np.array([points[row] for row in observed]).reshape(len(observed), len(self.table.benchmarks))
        scaled = self.table.scale(scores)
        posterior = HierarchicalLaw(self.prior).fit(self.features, observed, scaled)
        time = (records[-1].finished if records else None) or self.started
        return Step(number, posterior, recommend(posterior, self.weights, self.seed), time)

    def display(self, scaled: Array) -> Array:
        """Objective values for people: points of the benchmark, or percent of floor to ceiling for the mean."""
        if self.objective == "mean":
            return 100 * scaled
        column = self.table.benchmark_index(self.objective)
        shown: Array = self.table.floor[column] + self.table.span[column] * scaled
        return shown

    def displayed_objective(self, record: FinetuneRecord) -> float:
        """The objective of a finished finetune, for people."""
        assert record.objective is not None
        return float(self.display(np.array(record.objective)))

    def displayed_error(self, record: FinetuneRecord) -> float | None:
        """Standard error of `displayed_objective`, from the benchmarks' samples; None where a benchmark gives none."""
        known = [record.errors.get(name) for name in self.table.benchmarks]
        errors = np.array([np.nan if error is None else error for error in known]) / self.table.span
        share = float(np.sqrt(np.sum((self.weights * errors)[self.weights > 0] ** 2)))
        high, low = self.display(np.array([share, 0.0]))
        return None if np.isnan(share) else float(high - low)

    @property
    def best(self) -> FinetuneRecord | None:
        """The finished finetune with the highest objective, the first of equals."""
        return max(self.finished, key=self.displayed_objective, default=None)

    @property
    def unit(self) -> str:
        return (
            "% of floor to ceiling, mean of benchmarks" if self.objective == "mean" else f"points on {self.objective}"
        )
