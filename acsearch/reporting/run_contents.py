"""What the MLflow record of a study has to say: the content of each of its runs, as it follows from a `Snapshot`.

One parent run for the study; below it a run for each candidate's A and C with what the law predicts for it, and a run
for each finetune with its scores. Nothing here knows MLflow: `acsearch.reporting.mlflow_record` makes a server's runs
equal to these.

Names of representations never become metric keys, which MLflow restricts; they are run names and parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from typing import Any

import numpy as np

from acsearch.law.features import Array
from acsearch.reporting.summary import law_summary, markdown
from acsearch.runners.base import Artifacts
from acsearch.study.snapshot import FinetuneRecord, Snapshot, Step
from trainers.training.metrics_log import MetricsLog

NOTE = "mlflow.note.content"
TRAINING = "train/"  # metrics that training logged
_MOST_CANDIDATES = 200  # in a larger pool only the most promising candidates get a run of their own
_STATUS = {"running": "RUNNING", "complete": "FINISHED", "interrupted": "RUNNING"}


@dataclass(frozen=True)
class MetricPoints:
    """Metrics that became true together.

    Attributes:
        step: of all of them.
        time: at which they became true.
        values: computes them; numbers that are not finite are left out of the record.
    """

    step: int
    time: datetime
    values: Callable[[], dict[str, float]]


def _unknown() -> None:
    """What training logged where nobody knows."""


@dataclass(frozen=True)
class RunContent:
    """What one run has to say.

    Attributes:
        kind: "study", "score" or "finetune".
        which: tells runs of a kind apart: the study's name, a candidate's row, or a trial's number.
        name: of the run.
        started: when its work was.
        params: its parameters.
        points: its metrics, by ascending step.
        training: reads what training logged, by ascending step; None where that is not known here.
        dropped: reads the names of the rows that training left out.
        tags: further tags.
        status: MLflow's.
        ended: when that became its status.
    """

    kind: str
    which: str
    name: str
    started: datetime
    params: dict[str, str]
    points: Sequence[MetricPoints]
    status: str
    ended: datetime
    training: Callable[[], list[MetricPoints] | None] = _unknown
    dropped: Callable[[], list[str]] = list
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells it apart within its study."""
        return f"{self.kind}/{self.which}"


class RecordContents:
    """The content of all runs of a study, worked out where it is asked for."""

    def __init__(self, snapshot: Snapshot, artifacts: Artifacts) -> None:
        self._snapshot, self._artifacts = snapshot, artifacts
        self.law: Callable[[int], dict[str, Any]] = cache(self._law)
        self._sd: Callable[[int], Array] = cache(self._objective_sd)

    def study(self) -> RunContent:
        """The parent run."""
        snapshot = self._snapshot
        metadata, steps = snapshot.table.metadata, snapshot.steps
        return RunContent(
            kind="study",
            which=snapshot.name,
            name=snapshot.name,
            started=snapshot.started,
            params={
                "objective": snapshot.objective,
                "policy": snapshot.policy,
                "prior": snapshot.prior.name,
                "seed": str(snapshot.seed),
                "candidates": str(len(snapshot.table.representations)),
                "alignment": metadata.alignment,
                "correspondence": metadata.correspondence,
                "llm": metadata.llm,
            },
            points=[MetricPoints(step.number, step.time, partial(self._recommended, step)) for step in steps],
            status="FINISHED" if snapshot.is_over else "RUNNING",
            ended=steps[-1].time if steps else snapshot.started,
            tags={NOTE: markdown(snapshot)} if steps else {},
        )

    def below(self) -> Iterator[RunContent]:
        """The runs below it."""
        for row in self._with_own_run():
            yield self._candidate(row)
        for record in self._snapshot.finetunes:
            if record.representation and record.candidate is not None:
                yield self._finetune(record, record.candidate)

    def _law(self, number: int) -> dict[str, Any]:
        return law_summary(self._snapshot, self._snapshot.steps[number])

    def _objective_sd(self, number: int) -> Array:
        return self._snapshot.steps[number].posterior.objective(self._snapshot.weights)[1]

    def _recommended(self, step: Step) -> dict[str, float]:
        snapshot, advice, law = self._snapshot, step.recommendation, self.law(step.number)
        metrics = {
            "reco/p_best": float(advice.p_best.max()),
            "reco/p_top3": float(advice.p_top3.max()),
            "reco/expected_regret": 100 * advice.expected_regret,
            "cost/finetunes": step.number,
            "cost/seconds": sum(record.seconds or 0.0 for record in snapshot.finished[: step.number]),
        }
        if step.number:
            metrics["reco/incumbent"] = 100 * float((step.posterior.scores @ snapshot.weights).max())
        return metrics | {f"law/{name}": law[name] for name in ("r2", "r2_loo") if law[name] is not None}

    def _with_own_run(self) -> list[int]:
        """Rows of the candidates that get a run: all, or of a large pool the first 200 by the prior and the finetuned.

        None before all are scored.
        """
        if not self._snapshot.steps:
            return []
        rows = self._snapshot.steps[0].recommendation.order[:_MOST_CANDIDATES].tolist()
        finetuned = [record.candidate for record in self._snapshot.finished if record.candidate is not None]
        return sorted({*rows, *finetuned})

    def _candidate(self, row: int) -> RunContent:
        """The run of a candidate's A and C."""
        snapshot = self._snapshot
        name = snapshot.table.representations[row]
        measured = MetricPoints(0, snapshot.started, partial(_scores, snapshot, row))
        predicted = [
            MetricPoints(step.number, step.time, partial(self._predicted, step, row)) for step in snapshot.steps
        ]
        return RunContent(
            kind="score",
            which=str(row),
            name=name,
            started=snapshot.started,
            params={"representation": name},
            points=[measured, *predicted],
            status="FINISHED",
            ended=snapshot.started,
            training=partial(_trained, self._artifacts, row, None),
            dropped=partial(self._artifacts.dropped, row, None),
        )

    def _predicted(self, step: Step, row: int) -> dict[str, float]:
        advice = step.recommendation
        return {
            "predict/score": 100 * float(advice.mean[row]),
            "predict/sd": 100 * float(self._sd(step.number)[row]),
            "predict/p_best": float(advice.p_best[row]),
            "predict/p_top3": float(advice.p_top3[row]),
        }

    def _finetune(self, record: FinetuneRecord, candidate: int) -> RunContent:
        snapshot, ended = self._snapshot, record.finished or record.started
        points = [MetricPoints(0, record.started, partial(_scores, snapshot, candidate))]
        if record.objective is not None:
            points.append(MetricPoints(0, ended, partial(_results, snapshot, record)))
        return RunContent(
            kind="finetune",
            which=str(record.trial),
            name=f"{record.representation} (finetune {record.trial + 1})",  # that of its A and C has the plain name
            started=record.started,
            params={"representation": record.representation},
            points=points,
            status=_STATUS.get(record.state, "FAILED"),
            ended=ended,
            training=partial(_trained, self._artifacts, candidate, record.trial) if record.points else _unknown,
            dropped=partial(self._artifacts.dropped, candidate, record.trial) if record.points else list,
        )


def _results(snapshot: Snapshot, record: FinetuneRecord) -> dict[str, float]:
    names = metric_names(snapshot.table.benchmarks)
    metrics = {"agg/score": 100 * (record.objective or 0.0), "cost/seconds": record.seconds or 0.0}
    metrics |= {f"bench/{names[benchmark]}": points for benchmark, points in record.points.items()}
    return metrics | {f"error/{names[name]}": error for name, error in record.errors.items() if error is not None}


def _scores(snapshot: Snapshot, row: int) -> dict[str, float]:
    """A and C of a candidate as metrics: A for the objective, each benchmark's own A where they differ."""
    table = snapshot.table
    alignment = table.alignment[row]
    metrics = {"score/A": float(alignment @ snapshot.weights), "score/C": float(table.correspondence[row])}
    if np.ptp(alignment) > 0:
        names = metric_names(table.benchmarks).values()
        metrics |= {f"A/{name}": float(value) for name, value in zip(names, alignment, strict=True)}
    return metrics


def _trained(artifacts: Artifacts, candidate: int, trial: int | None) -> list[MetricPoints] | None:
    path = artifacts.logs(candidate, trial)
    entries = [] if path is None else MetricsLog(path).read()
    points = []
    for entry in entries:
        values = {f"{TRAINING}{name}": value for name, value in entry.metrics.items()}
        points.append(MetricPoints(entry.step, datetime.fromtimestamp(entry.time), values.copy))
    return points or None


def metric_names(benchmarks: Sequence[str]) -> dict[str, str]:
    """A name that MLflow takes as part of a metric's, for each benchmark; no two the same."""
    names: dict[str, str] = {}
    for benchmark in benchmarks:
        name = plain = re.sub(r"[^\w.: -]", "_", benchmark)[:200]
        while name in names.values():
            name = f"{plain}_{len(names)}"
        names[benchmark] = name
    return names
