"""Evaluate a committed result: in this process, or in ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from evals.request import EvaluationRequest
from evals.results import Evaluation, Results
from evals.runner import evaluate
from trainers.checkpoints.work_store import Store, open_store
from trainers.model.ranks import load_on_rank
from trainers.ranks import preemption
from trainers.ranks.group import ALONE, Group, working_in
from trainers.ranks.launch import Task, apart, launch_ranks
from trainers.ranks.progress_file import telling
from trainers.utils.progress import BenchmarkCallback, Reporter, silent


def evaluate_result(
    request: EvaluationRequest,
    folder: Path,
    processes: int,
    *,
    watch: Callable[[], None] = lambda: None,
    report: Reporter = silent,
    store: Store | None = None,
) -> Evaluation:
    """Evaluate the model of a committed result in one or several processes; see `trainers.ranks.launch.apart`.

    An evaluation that is committed already is read: no process is started for it, and no model is built.

    Args:
        request: what is evaluated.
        folder: where scores and samples are.
        processes: that answer together.
        watch: is called as the evaluation goes on; what it raises ends it.
        report: is called with how far it is.
        store: the work store that shares the folder.

    Raises:
        AcsearchError: what a process raised, with the same type.
        CrashedError: the processes ended without saying why.
        PreemptedError: this process was asked to stop.
    """
    began = time.perf_counter()
    results = _results(request, folder, store or Store())
    results.synchronise()
    before = results.committed()
    if len(before) < len(request.benchmarks):
        if apart(processes):

            def done() -> bool:
                return len(results.committed()) == len(request.benchmarks)

            launch_ranks(Task("evaluation", "evals", request, folder, done), processes, watch, report)
        else:

            def on_samples(name: str, done: int, of: int) -> None:
                preemption.check()
                watch()
                report(f"evaluating {name}, {done} of {of}")

            _evaluate(request, folder, ALONE, on_samples, results.store)
    seconds = sum(result["seconds"] for result in before.values()) + time.perf_counter() - began
    return Evaluation(results.scores(results.committed()), seconds)


def evaluate_as_rank(request: EvaluationRequest, folder: Path) -> None:
    """Do a rank's share of an evaluation.

    Waits first for whoever else on this machine does the same evaluation.

    Args:
        request: what is evaluated.
        folder: where scores and samples are.
    """
    store = open_store(request.store)
    with working_in(folder) as group, telling(folder, group, "evaluating, loading") as report:

        def on_samples(name: str, done: int, of: int) -> None:
            preemption.check(folder)
            report(f"evaluating {name}, {done} of {of}")

        _evaluate(request, folder, group, on_samples, store)
        store.drain()


def _evaluate(
    request: EvaluationRequest, folder: Path, group: Group, on_samples: BenchmarkCallback, store: Store
) -> None:
    evaluate(
        load_on_rank(request.checkpoint, request.precision, store, group),
        request.benchmarks,
        folder,
        batch_size=request.batch_size,
        limit=request.limit,
        cache=request.cache,
        data=request.data,
        progress=on_samples,
        store=store,
        identity=request.identity,
    )


def _results(request: EvaluationRequest, folder: Path, store: Store) -> Results:
    return Results.of(request.identity, request.benchmarks, folder, request.limit, request.data, store)
