"""The committed results of an evaluation: scores and samples of each benchmark, and what they were measured on.

FOLDER/results/<benchmark>.json     the score, and what it was measured on; written last
FOLDER/samples/<benchmark>.jsonl    one line per sample, in the data's order
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from evals.benchmarks import Benchmark
from evals.definition import data_digest
from trainers.checkpoints.work_store import Store
from trainers.errors import EvaluationError
from trainers.utils.atomic import atomic_write
from trainers.utils.parsing import parse_json


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


@dataclass(frozen=True)
class Evaluation:
    """A model's scores.

    Attributes:
        scores: by name of the benchmark.
        seconds: wall-clock time, with that of the earlier calls that this one continued.
    """

    scores: dict[str, BenchmarkScore]
    seconds: float


class _Result(BaseModel):
    """What the file of a result must have."""

    model_config = ConfigDict(allow_inf_nan=False)
    of: dict[str, Any]
    score: BenchmarkScore
    seconds: float


@dataclass(frozen=True)
class Results:
    """The results of one evaluation in its folder; those of another model, or of other data, do not count.

    Attributes:
        folder: where scores and samples are.
        wanted: what the result of each benchmark depends on, by its name.
        store: the work store that shares the folder.
    """

    folder: Path
    wanted: dict[str, dict[str, Any]]
    store: Store

    @classmethod
    def of(
        cls,
        model: str,
        benchmarks: Sequence[Benchmark],
        folder: Path,
        limit: int | None,
        data: dict[str, Path],
        store: Store,
    ) -> Results:
        """The results of a model.

        Args:
            model: stands for it, and for how it is asked.
            benchmarks: that it is scored on.
            folder: where scores and samples are.
            limit: how many rows of each benchmark are asked; None for all.
            data: local data by name of the benchmark.
            store: the work store that shares the folder.

        Raises:
            EvaluationError: data is missing, or of no benchmark.
        """
        unknown = set(data) - {benchmark.name for benchmark in benchmarks}
        if unknown:
            raise EvaluationError(f"data is given for {min(unknown)!r}, which is no benchmark of this evaluation")
        wanted = {one.name: _identity(one, model, limit, data.get(one.name)) for one in benchmarks}
        return cls(folder, wanted, store)

    def synchronise(self) -> None:
        """Have in the folder what the store has, and the other way round."""
        for name in self.wanted:
            for path in self._files(name):
                if path.exists():
                    self.store.push_file(path)  # its writer may have been killed before it was uploaded
                else:
                    self.store.pull_file(path)

    def committed(self) -> dict[str, dict[str, Any]]:
        """What is there, by name of the benchmark."""
        found = {name: self._read(name) for name in self.wanted}
        return {name: result for name, result in found.items() if result and result["of"] == self.wanted[name]}

    def of_other_models(self) -> Iterator[tuple[str, str]]:
        """The benchmarks whose results differ in nothing but the model; with what stands for that."""
        for name, wanted in self.wanted.items():
            result = self._read(name)
            if result and result["of"] != wanted and result["of"] | {"model": wanted["model"]} == wanted:
                yield name, str(result["of"].get("model"))

    def adopt(self, name: str) -> None:
        """Take the result of a benchmark for this model's: it was committed under another name of the same."""
        result = self._read(name)
        assert result is not None
        self._write(name, result | {"of": self.wanted[name]})

    def commit(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        """Keep a benchmark's score and its samples: samples first, because a result without them does not count."""
        records = result.pop("records")
        samples, scores = self._files(name)
        scores.unlink(missing_ok=True)  # of another model
        lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
        with atomic_write(samples) as fresh:
            fresh.write_text(lines, encoding="utf-8")
        self.store.push_file(samples)
        return self._write(name, {"of": self.wanted[name], **result})

    def scores(self, results: dict[str, dict[str, Any]]) -> dict[str, BenchmarkScore]:
        """The scores of results that `committed` found, in the order of the benchmarks."""
        return {name: BenchmarkScore(**results[name]["score"]) for name in self.wanted}

    def _write(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        path = self._files(name)[1]
        with atomic_write(path) as fresh:
            fresh.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        self.store.push_file(path)
        return result

    def _read(self, name: str) -> dict[str, Any] | None:
        samples, scores = self._files(name)
        try:
            result: dict[str, Any] = parse_json(scores.read_text(encoding="utf-8"))
            _Result.model_validate(result)
        except (OSError, ValueError):
            return None
        return result if samples.exists() else None

    def _files(self, name: str) -> tuple[Path, Path]:
        """Samples, and the result, which is written last."""
        return self.folder / "samples" / f"{name}.jsonl", self.folder / "results" / f"{name}.json"


def _identity(benchmark: Benchmark, model: str, limit: int | None, data: Path | None) -> dict[str, Any]:
    """Everything that a result depends on; a result of another identity is not used."""
    if data is not None and not data.exists():
        raise EvaluationError(f"{benchmark.name}: its data {data} does not exist")
    definition = hashlib.sha256(benchmark.definition.read_bytes()).hexdigest()
    elsewhere = {"definition", "floor", "ceiling", "higher_is_better", "questions"}
    described = benchmark.model_dump(mode="json", exclude=elsewhere)
    return {
        "benchmark": described | {"definition": definition},
        "model": model,
        "limit": limit,
        "data": data and data_digest(data),
        "lmms_eval": importlib.metadata.version("lmms-eval"),
    }
