"""One call of lmms-eval per benchmark, without its side effects on this process.

lmms-eval seeds the global generators, prints, retries bugs for eight seconds and hides them in a RetryError. Here the
generators are put back, its output goes to a file, and an error is one sentence. It has Pillow take half a picture for
a whole one; here only while it evaluates. Meanwhile Pillow opens the formats of `trainers.encoders.images` alone.
"""

from __future__ import annotations

import argparse
import inspect
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import ImageFile
from tenacity import RetryError

from evals.adapter import AcsearchModel, Model
from evals.benchmarks import Benchmark
from evals.definition import task_config
from evals.output_capture import Muted, muted
from evals.response_cache import Answers
from evals.standard_error import UNITS, estimate
from trainers.encoders.images import known_formats
from trainers.errors import AcsearchError, CrashedError, EvaluationError
from trainers.ranks.gpu_memory import out_of_memory
from trainers.ranks.group import is_lost_peer
from trainers.utils.progress import BenchmarkCallback

ImageFile.LOAD_TRUNCATED_IMAGES = False  # importing lmms-eval sets it for all of the process, which may train later


class _Task(ConfigurableTask):  # type: ignore[misc]  # lmms-eval has no types
    """A task whose scoring is tried once: trying again does not mend a bug."""

    process_results = inspect.unwrap(ConfigurableTask.process_results)


class _LocalTask(_Task):
    """A task whose data is read once: trying again does not bring a missing file."""

    download = inspect.unwrap(ConfigurableTask.download)


class Harness:
    """Evaluates one model on benchmarks."""

    def __init__(
        self,
        model: Model,
        identity: str,
        log: Path,
        batch_size: int,
        cache: Path | None,
        progress: BenchmarkCallback | None,
    ) -> None:
        """Prepare the evaluation of a model.

        Args:
            model: answers the questions.
            identity: stands for the model in the cache.
            log: the file to which lmms-eval's output is appended.
            batch_size: how many questions are asked at a time.
            cache: folder of the answers of all models; None to keep them in memory only.
            progress: is called with how many questions are answered.
        """
        self._rank = int(os.environ.get("RANK", "0"))
        self._model, self._batch_size, self._progress = model, batch_size, progress
        self._log = log if self._rank == 0 else log.with_suffix(f".{self._rank}.log")
        self._answers = Answers(cache, identity, self._rank)

    def run(self, benchmark: Benchmark, data: Path | None, limit: int | None) -> dict[str, Any]:
        """Score one benchmark.

        Args:
            benchmark: to be scored.
            data: its local data; None where lmms-eval gets it from the hub.
            limit: how many rows to ask; all where it is None.

        Returns:
            `score`, `seconds` and the `records` of its samples; nothing on ranks but the first.

        Raises:
            EvaluationError: it cannot be scored; the message names the benchmark.
        """
        started = time.perf_counter()
        if limit is not None:
            limit = math.ceil(limit / benchmark.rows) * benchmark.rows
        with _random_states(), _images(), muted(self._log) as terminal, _named(benchmark.name):
            results = self._evaluate(benchmark, data, limit, terminal)
            if results is None:
                return {}
            scored = _score(benchmark, results)
        return {**scored, "seconds": time.perf_counter() - started}

    def _evaluate(
        self, benchmark: Benchmark, data: Path | None, limit: int | None, terminal: Muted
    ) -> dict[str, Any] | None:
        config = task_config(benchmark, data)
        adapter = AcsearchModel(
            self._model,
            batch_size=self._batch_size,
            answers=self._answers,
            images=benchmark.images,
            progress=self._unmuted_progress(benchmark.name, terminal),
        )
        with tempfile.TemporaryDirectory() as scratch:  # for the files that some tasks write about their scores
            options = argparse.Namespace(
                output_path=scratch,
                process_with_media=bool(config.get("process_results_use_image")),
                reasoning_tags=None,
                agentic_trace_mode="basic",
            )
            results: dict[str, Any] | None = simple_evaluate(
                model=adapter,
                tasks=[self._task(config, local=data is not None)],
                task_manager=TaskManager("ERROR", include_defaults=False),
                batch_size=self._batch_size,
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
                verbosity="ERROR",
                distributed_executor_backend="torchrun",  # the other makes an Accelerator, and there can be but one
                cli_args=options,
                process_docs_parallel=1,
            )
        return results

    def _task(self, config: dict[str, Any], *, local: bool) -> ConfigurableTask:
        """A task with its data, which the first rank reads before the others, so that they find it prepared."""
        several = dist.is_initialized() and dist.get_world_size() > 1
        if several and self._rank > 0:
            dist.barrier()
        task = (_LocalTask if local else _Task)(config=config)
        if several and self._rank == 0:
            dist.barrier()
        return task

    def _unmuted_progress(self, benchmark: str, terminal: Muted) -> BenchmarkCallback | None:
        progress = self._progress
        if progress is None:
            return None

        def report(task: str, done: int, total: int) -> None:
            with terminal.unmuted():
                progress(benchmark, done, total)

        return report


def _score(benchmark: Benchmark, results: dict[str, Any]) -> dict[str, Any]:
    """The score and the records of the samples that it counts, in the data's order."""
    (task,) = results["results"]
    value = results["results"][task].get(f"{benchmark.metric},none")
    if not isinstance(value, Real) or not math.isfinite(value):
        raise EvaluationError(f"lmms-eval gives no number for {benchmark.metric!r} but {value!r}")
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    samples = [sample for sample in samples if benchmark.metric in sample]
    points = benchmark.scale * float(value)
    error = None
    if benchmark.units != "none":
        rebuilt, spread = estimate(UNITS[benchmark.units](samples, benchmark.metric, benchmark.cluster))
        if not math.isclose(benchmark.scale * rebuilt, points, rel_tol=1e-5, abs_tol=1e-2):
            raise EvaluationError(
                f"lmms-eval scores {points:.4f} and its samples {benchmark.scale * rebuilt:.4f}; "
                f"`units: {benchmark.units}` is wrong for this task"
            )
        error = None if spread is None else benchmark.scale * spread
    score = {"points": points, "standard_error": error, "samples": len(samples)}
    return {"score": score, "records": [_record(benchmark, sample) for sample in samples]}


def _record(benchmark: Benchmark, sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "doc_id": sample["doc_id"],
        "prompt": sample["arguments"][0],
        "answer": sample["filtered_resps"][0],
        "target": sample["target"],
        benchmark.metric: sample[benchmark.metric],
        "doc": sample["doc"],
    }


@contextmanager
def _named(benchmark: str) -> Iterator[None]:
    """Turn any failure into an EvaluationError that names the benchmark; of what lmms-eval retried, take the cause."""
    try:
        yield
    except AcsearchError as error:
        if str(error).startswith(f"{benchmark}:"):
            raise
        raise EvaluationError(f"{benchmark}: {error}") from error
    except RetryError as error:
        cause = error.last_attempt.exception() or error
        raise EvaluationError(
            f"{benchmark}: lmms-eval could not read its data: {_line(cause)}; give a local copy"
        ) from cause
    except torch.OutOfMemoryError as error:
        raise out_of_memory(f"evaluating {benchmark}", "give a smaller batch_size") from error
    except Exception as error:
        if is_lost_peer(error):
            raise CrashedError(f"{benchmark}: another process of the evaluation has ended") from error
        raise EvaluationError(f"{benchmark}: lmms-eval failed: {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextmanager
def _random_states() -> Iterator[None]:
    """Put the global generators back as they were: lmms-eval seeds and uses them."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def _images() -> Iterator[None]:
    """Let Pillow take half a picture for a whole one, as lmms-eval does, but open no other formats than we do."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        with known_formats():
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
