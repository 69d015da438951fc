"""Evaluate a model on benchmarks: its scores, with their standard errors.

Each benchmark is committed on its own, see `evals.results`, so an evaluation that is called again takes up after the
last one. FOLDER/eval.log has all that lmms-eval had to say. Among ranks the samples are shared out, each rank has its
own whole model, and every rank returns the same evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.benchmarks import Benchmark
from evals.results import Evaluation, Results
from trainers.checkpoints.work_store import Store
from trainers.utils.progress import BenchmarkCallback

if TYPE_CHECKING:
    from evals.adapter import Model


def evaluate(
    model: Model,
    benchmarks: Sequence[Benchmark],
    folder: Path,
    *,
    batch_size: int = 32,
    limit: int | None = None,
    cache: Path | None = None,
    data: dict[str, Path] | None = None,
    progress: BenchmarkCallback | None = None,
    store: Store | None = None,
    identity: str | None = None,
) -> Evaluation:
    """Evaluate a model, or continue an interrupted evaluation of the same model in this folder.

    The global random generators are left as they were.

    Args:
        model: answers the questions; see `evals.adapter`.
        benchmarks: to be scored.
        folder: where scores and samples are written.
        batch_size: how many questions are asked at a time; results do not depend on it.
        limit: how many rows of each benchmark to ask; all where it is not given.
        cache: folder of the answers of all models.
        data: local data by name of the benchmark.
        progress: is called with how many questions are answered; on every rank, of its own share.
        store: the work store that shares the folder.
        identity: stands for the model, where that is known without a look at its weights; else its fingerprint does.

    Returns:
        The scores, the same on every rank.

    Raises:
        EvaluationError: a benchmark cannot be scored; the message names it.
        StoreError: the work store cannot be used.
    """
    from trainers.ranks.group import joined  # only here: importing torch takes seconds

    started = time.perf_counter()
    data = data or {}
    with joined() as group:
        name = identity or (model.fingerprint if group.first else "")
        name = group.broadcast(name)
        results = Results.of(name, benchmarks, folder, limit, data, store or Store())
        if group.first:
            results.synchronise()
            _adopt(results, model)
        found = group.broadcast(results.committed() if group.first else {})
        before = sum(result["seconds"] for result in found.values())
        pending = [benchmark for benchmark in benchmarks if benchmark.name not in found]
        if pending:
            from evals.harness import Harness  # only here: importing lmms-eval takes eight seconds

            harness = Harness(model, name, folder / "eval.log", batch_size, cache, progress)
            for benchmark in pending:
                result = harness.run(benchmark, data.get(benchmark.name), limit)
                if group.first:
                    found[benchmark.name] = results.commit(benchmark.name, result)
        scores = results.scores(group.broadcast(found))
    return Evaluation(scores, before + time.perf_counter() - started)


def _adopt(results: Results, model: Model) -> None:
    """Keep what earlier versions committed, for whom a model's fingerprint stood."""
    others = list(results.of_other_models())
    if others:
        fingerprint = model.fingerprint
        for name, other in others:
            if other == fingerprint:
                results.adopt(name)
