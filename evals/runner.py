"""Evaluate a model on benchmarks: its scores, with their standard errors.

    FOLDER/results/<benchmark>.json     the score, and what it was measured on; written last
    FOLDER/samples/<benchmark>.jsonl    one line per sample, in the data's order
    FOLDER/eval.log                     all that lmms-eval had to say

Each benchmark is committed on its own, so an evaluation that is called again takes up after the last one. Under
torchrun the samples are shared out among the ranks, and every rank returns the same evaluation.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from evals.benchmarks import Benchmark
from evals.definition import data_digest
from trainers.checkpoints.work_store import Store
from trainers.errors import EvaluationError
from trainers.utils.atomic import atomic_write
from trainers.utils.parsing import parse_json
from trainers.utils.progress import BenchmarkCallback

if TYPE_CHECKING:
    from evals.adapter import Model


@dataclass(frozen=True)
class BenchmarkScore:
    """A model's score on one benchmark.

    Attributes:
        points: on the benchmark's own scale.
        standard_error: in points, from the choice of questions alone; None where it is not known.
        samples: how many questions were scored.
    """

    points: float
    standard_error: float | None
    samples: int


class _Result(BaseModel):
    """What the file of a result must have."""

    model_config = ConfigDict(allow_inf_nan=False)
    of: dict[str, Any]
    score: BenchmarkScore
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """A model's scores.

    Attributes:
        scores: by name of the benchmark.
        seconds: wall-clock time, with that of the earlier calls that this one continued.
    """

    scores: dict[str, BenchmarkScore]
    seconds: float


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

    Returns:
        The scores, the same on every rank.

    Raises:
        EvaluationError: a benchmark cannot be scored; the message names it.
        StoreError: the work store cannot be used.
    """
    started = time.perf_counter()
    data, store = data or {}, store or Store()
    unknown = set(data) - {benchmark.name for benchmark in benchmarks}
    if unknown:
        raise EvaluationError(f"data is given for {min(unknown)!r}, which is no benchmark of this evaluation")
    with _ranks() as (rank, share):
        fingerprint = model.fingerprint
        wanted = {one.name: _identity(one, fingerprint, limit, data.get(one.name)) for one in benchmarks}
        found = {}
        if rank == 0:
            for name in wanted:
                for path in _files(folder, name):
                    if path.exists():
                        store.push_file(path)  # its writer may have been killed before it was uploaded
                    else:
                        store.pull_file(path)
            found = {name: _committed(folder, name, wanted[name]) for name in wanted}
        results: dict[str, dict[str, Any]] = {name: result for name, result in share(found).items() if result}
        before = sum(result["seconds"] for result in results.values())
        pending = [benchmark for benchmark in benchmarks if benchmark.name not in results]
        if pending:
            from evals.harness import Harness  # only here: importing lmms-eval takes eight seconds

            harness = Harness(model, folder / "eval.log", batch_size, cache, progress)
            for benchmark in pending:
                result = harness.run(benchmark, data.get(benchmark.name), limit)
                if rank == 0:
                    results[benchmark.name] = _commit(folder, benchmark, wanted[benchmark.name], result)
                    for path in _files(folder, benchmark.name):
                        store.push_file(path)
        results = share(results)
    scores = {one.name: BenchmarkScore(**results[one.name]["score"]) for one in benchmarks}
    return Evaluation(scores, before + time.perf_counter() - started)


def _identity(benchmark: Benchmark, fingerprint: str, limit: int | None, data: Path | None) -> dict[str, Any]:
    """Everything that a result depends on; a result of another identity is not used."""
    if data is not None and not data.exists():
        raise EvaluationError(f"{benchmark.name}: its data {data} does not exist")
    definition = hashlib.sha256(benchmark.definition.read_bytes()).hexdigest()
    elsewhere = {"definition", "floor", "ceiling", "higher_is_better", "questions"}
    described = benchmark.model_dump(mode="json", exclude=elsewhere)
    return {
        "benchmark": described | {"definition": definition},
        "model": fingerprint,
        "limit": limit,
        "data": data and data_digest(data),
        "lmms_eval": importlib.metadata.version("lmms-eval"),
    }


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """Samples, and the result, which is written last."""
    return folder / "samples" / f"{name}.jsonl", folder / "results" / f"{name}.json"


def _committed(folder: Path, name: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = parse_json((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))
        _Result.model_validate(result)
    except (OSError, ValueError):
        return None
    return result if result["of"] == wanted and (folder / "samples" / f"{name}.jsonl").exists() else None


def _commit(folder: Path, benchmark: Benchmark, of: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Samples first: a result whose samples are not there does not count."""
    records = result.pop("records")
    result = {"of": of, **result}
    (folder / "results" / f"{benchmark.name}.json").unlink(missing_ok=True)  # of another model
    lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    for kind, end, text in (("samples", "jsonl", lines), ("results", "json", json.dumps(result, indent=1) + "\n")):
        with atomic_write(folder / kind / f"{benchmark.name}.{end}") as fresh:
            fresh.write_text(text, encoding="utf-8")
    return result


@contextmanager
def _ranks() -> Iterator[tuple[int, Callable[[Any], Any]]]:
    """This rank, and a function that gives all ranks what the first has.

    Joins the process group that a trainer has made; without one, makes one of gloo for as long as it is needed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, lambda value: value
        return
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo")

    def share(value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    try:
        yield dist.get_rank(), share
    finally:
        if ours:
            dist.destroy_process_group()
