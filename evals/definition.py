"""Make a task of lmms-eval from a benchmark and its data: in this process, or as a YAML file for its command line.

Data may be a parquet file, a `datasets.DatasetDict` saved to disk, or a copy of the repository on the hub; without any,
lmms-eval looks on the hub, or with HF_HUB_OFFLINE=1 only in what was downloaded from there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from evals.benchmarks import Benchmark
from trainers.errors import EvaluationError
from trainers.utils.regular_files import open_regular

_END = 1 << 20  # bytes of either end of a file that its digest covers


def task_config(benchmark: Benchmark, data: Path | None) -> dict[str, Any]:
    """The configuration of an lmms-eval task that scores this benchmark and nothing else.

    Args:
        benchmark: to be scored.
        data: its local data; None where lmms-eval gets it from the hub.

    Raises:
        EvaluationError: the task has no such metric, or its data cannot be used.
    """
    config = _definition(benchmark, "full")
    metrics = [metric for metric in config["metric_list"] if metric["metric"] == benchmark.metric]
    if not metrics:
        there = ", ".join(metric["metric"] for metric in config["metric_list"])
        raise EvaluationError(f"{benchmark.name}: {benchmark.task} has no metric {benchmark.metric!r}; it has {there}")
    config |= {"task": benchmark.task, **_source(benchmark, config, data)}
    config["metric_list"] = metrics  # the others write submissions for leaderboards
    config["process_docs"] = functools.partial(_rows, benchmark, config.get("process_docs"))
    if callable(config.get("process_results")):
        config["process_results"] = _settled(config["process_results"])
    return config


def export_task(benchmark: Benchmark, data: Path | None, folder: Path) -> str:
    """Write a benchmark as a task for lmms-eval's command line (`--include_path FOLDER`).

    The rows to keep are not filtered there.

    Args:
        benchmark: to be scored.
        data: its local data; None where lmms-eval gets it from the hub.
        folder: where the YAML file is written.

    Returns:
        The task's name.
    """
    config = _definition(benchmark, "simple")
    name = f"acsearch_{benchmark.name}"
    task = {"include": str(benchmark.definition), "task": name, **_source(benchmark, config, data)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return name


def data_digest(data: Path) -> str:
    """SHA-256 over the names and sizes of all files of a data set, and over the first and the last bytes of each."""
    content = hashlib.sha256()
    for path in [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file()):
        size = path.stat().st_size
        content.update(f"{path.relative_to(data).as_posix()}\0{size}\0".encode())
        with open_regular(path) as file:
            content.update(file.read(_END))
            if size > _END:
                file.seek(max(_END, size - _END))
                content.update(file.read(_END))
    return content.hexdigest()


def _definition(benchmark: Benchmark, mode: str) -> dict[str, Any]:
    from lmms_eval.utils import load_yaml_config

    config: dict[str, Any] = load_yaml_config(str(benchmark.definition), mode=mode)
    return config


def _source(benchmark: Benchmark, config: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """Where the task's data comes from, as keys of its config."""
    if data is None:
        if config.get("dataset_path") is None:
            raise EvaluationError(f"{benchmark.name}: has no data of its own; give the path of its parquet file")
        options = config.get("dataset_kwargs") or {}
        return {"dataset_kwargs": {key: value for key, value in options.items() if key != "token"}}  # no login needed
    data = data.absolute()
    split = config.get("test_split") or config.get("validation_split")
    if data.is_file():
        return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": {split: str(data)}}}
    if (data / "dataset_dict.json").is_file():
        return {"dataset_path": str(data), "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    if (data / "state.json").is_file():
        raise EvaluationError(
            f"{benchmark.name}: {data} is a dataset without splits; save a DatasetDict with {split!r}"
        )
    if not data.is_dir():
        raise EvaluationError(f"{benchmark.name}: its data {data} does not exist")
    return {"dataset_path": str(data), "dataset_kwargs": {}}


def _rows(benchmark: Benchmark, process: Callable[[Any], Any] | None, dataset: Any) -> Any:
    """The rows of a `datasets.Dataset` that count, checked before anything is spent on them."""
    dataset = dataset if process is None else process(dataset)
    needed = [*benchmark.keep, *([benchmark.cluster] if benchmark.cluster else [])]
    missing = [column for column in needed if column not in dataset.column_names]
    if missing:
        raise EvaluationError(
            f"{benchmark.name}: its data has no column {missing[0]!r}; it has {', '.join(dataset.column_names)}"
        )
    for column, values in benchmark.keep.items():
        dataset = dataset.select([row for row, value in enumerate(dataset[column]) if str(value) in values])
    if not len(dataset):
        kept = "; ".join(f"{column} in {', '.join(values)}" for column, values in benchmark.keep.items())
        raise EvaluationError(f"{benchmark.name}: its data has no row" + (f" with {kept}" if kept else ""))
    return dataset


def _settled(process_results: Callable[..., Any]) -> Callable[..., Any]:
    """Seed a task's scoring by the sample: MMMU guesses where it cannot read an answer, whatever the order."""

    @functools.wraps(process_results)
    def settled(doc: dict[str, Any], results: list[Any], **more: Any) -> Any:
        random.seed(json.dumps([doc, results], sort_keys=True, default=str))
        return process_results(doc, results, **more)

    return settled
