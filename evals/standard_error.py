"""The standard error of every benchmark's score, from its samples.

A score is a sum, over strata, of the mean of units. Most benchmarks have one stratum and a unit per question. MME sums
ten subtasks whose units are pairs of questions; MMBench's unit is a question in all rotations of its options. Units
that share a cluster (an image) are not independent, and the standard error is the one that allows for that.

Source: Miller, "Adding error bars to evals" (arXiv 2411.00640), sections 2 and 3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]  # of one sample: `doc` with its columns, and the metric with what the task makes of the answer


@dataclass(frozen=True)
class Unit:
    """What a score is the mean of.

    Attributes:
        value: in units of the metric.
        cluster: units of the same cluster are not independent.
        stratum: the part of the benchmark whose mean is added to those of the others.
    """

    value: float
    cluster: str
    stratum: str = ""


def estimate(units: Sequence[Unit]) -> tuple[float, float | None]:
    """The score and its standard error, in units of the metric.

    In one stratum of independent units the error is their standard deviation over sqrt(n). None where a stratum has a
    single cluster; 0 where all its units agree, which says that the sample is too small and not that the score is sure.

    Source: Miller (arXiv 2411.00640), sections 2 and 3.
    """
    strata: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        strata[unit.stratum].append(unit)
    score, variance = 0.0, 0.0
    for members in strata.values():
        mean = math.fsum(unit.value for unit in members) / len(members)
        residuals: dict[str, float] = defaultdict(float)
        for unit in members:
            residuals[unit.cluster] += unit.value - mean
        score += mean
        n = len(residuals)
        correction = n / (n - 1) if n > 1 else math.nan
        variance += correction * math.fsum(sum_**2 for sum_ in residuals.values()) / len(members) ** 2
    return score, None if math.isnan(variance) else math.sqrt(variance)


def samples(records: Sequence[Record], metric: str, cluster: str | None) -> list[Unit]:
    """Units of a metric that is a number for each sample."""
    return [Unit(float(record[metric]), _cluster(record, cluster)) for record in records]


def matches(records: Sequence[Record], metric: str, cluster: str | None) -> list[Unit]:
    """Units of a metric that holds an answer and the right one for each sample, compared as SEED-Bench does."""

    def right(value: Record) -> bool:
        given, wanted = str(value["pred"]), str(value["answer"])
        return given.lower().strip() == wanted.lower().strip()

    return [Unit(float(right(record[metric])), _cluster(record, cluster)) for record in records]


def mmmu(records: Sequence[Record], metric: str, cluster: str | None) -> list[Unit]:
    """Units of a metric that holds an answer for each sample, judged by MMMU's own code."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    return [Unit(float(evaluate_mmmu([record[metric]])[1]["acc"]), _cluster(record, cluster)) for record in records]


def mme(records: Sequence[Record], metric: str, cluster: str | None) -> list[Unit]:
    """Units of MME: two questions about one image, 100 times their accuracy, and 100 more if both are right."""
    pairs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for value in (record[metric] for record in records):
        pairs[value["category"], value["question_id"]].append(value["score"])
    return [
        Unit(100 * (sum(scores) / len(scores) + (sum(scores) == len(scores))), image, category)
        for (category, image), scores in pairs.items()
    ]


def mmbench(records: Sequence[Record], metric: str, cluster: str | None) -> list[Unit]:
    """Units of MMBench: a question with all rotations of its options, 100 if every one is answered right.

    Answers are judged by lmms-eval's own code.
    """
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    judge = MMBench_Evaluator()
    groups: dict[int, list[Record]] = defaultdict(list)
    for value in sorted((record[metric] for record in records), key=lambda value: int(value["index"])):
        groups[int(value["index"]) % 1_000_000].append(value)
    right = {value["index"]: value["answer"] for group in groups.values() for value in group}
    return [
        Unit(100.0 * judge.eval_sub_data(pd.DataFrame(group), right, static_only=True), str(index))
        for index, group in groups.items()
        if group[0]["index"] == index  # a rotation whose original was cut off by a limit does not count
    ]


def _cluster(record: Record, column: str | None) -> str:
    return str(record["doc_id"] if column is None else record["doc"][column])


UNITS: dict[str, Callable[[Sequence[Record], str, str | None], list[Unit]]] = {
    "samples": samples,
    "matches": matches,
    "mmmu": mmmu,
    "mme": mme,
    "mmbench": mmbench,
}
