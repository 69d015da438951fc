"""Evaluations of a local task: scores and errors that are known, whatever the batches; nothing is run twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evals import BenchmarkScore
from support.evaluation import GIVEN, RIGHT, Oracle, run, samples, write_questions


def test_score_error_and_samples(tmp_path: Path, questions: dict[str, Path]) -> None:
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions)
    hits = [1, 1, 0, 1, 0, 1, 1]
    error = 100 * np.std(hits, ddof=1) / math.sqrt(7)
    assert result.scores == {"micro_count": BenchmarkScore(pytest.approx(500 / 7), pytest.approx(error), 7)}
    records = samples(tmp_path / "out")
    assert [record["doc_id"] for record in records] == list(range(7))
    assert [record["accuracy"] for record in records] == hits
    assert [record["target"] for record in records] == RIGHT
    assert records[3] | {"doc": None} == {
        "doc_id": 3,
        "prompt": "what is it?",
        "answer": "red",  # cut at the line's end
        "target": "red",
        "accuracy": 1.0,
        "doc": None,
    }
    assert model.longest == {16}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter(batch_size: int, tmp_path: Path, questions: dict[str, Path]) -> None:
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions, batch_size=batch_size)
    assert result.scores["micro_count"].points == pytest.approx(500 / 7)
    assert max(model.batches) <= batch_size
    assert sum(model.batches) == 7
    assert [record["accuracy"] for record in samples(tmp_path / "out")] == [1, 1, 0, 1, 0, 1, 1]


def test_an_evaluation_is_not_run_again(tmp_path: Path, questions: dict[str, Path]) -> None:
    first = run(Oracle(GIVEN), tmp_path / "out", questions)
    again = Oracle(GIVEN)
    second = run(again, tmp_path / "out", questions)
    assert second.scores == first.scores
    assert again.batches == []
    assert second.seconds > json.loads((tmp_path / "out/results/micro_count.json").read_text())["seconds"]


def test_a_result_that_is_none_is_measured_again(tmp_path: Path, questions: dict[str, Path]) -> None:
    """A bundle or a work store may hold any text under its name."""
    first = run(Oracle(GIVEN), tmp_path / "out", questions)
    file = tmp_path / "out/results/micro_count.json"
    good = json.loads(file.read_text())
    for text in (
        "[]",
        "[" * 100_000,
        json.dumps(good | {"score": {"points": "all"}}),
        json.dumps(good | {"seconds": None}),
    ):
        file.write_text(text)
        model = Oracle(GIVEN)
        assert run(model, tmp_path / "out", questions).scores == first.scores
        assert model.batches


@pytest.mark.parametrize("change", ["model", "data", "limit", "samples"])
def test_another_evaluation_is(change: str, tmp_path: Path, questions: dict[str, Path]) -> None:
    run(Oracle(GIVEN), tmp_path / "out", questions)
    model = Oracle(RIGHT, fingerprint="better" if change == "model" else "oracle")
    if change == "data":
        write_questions(questions["micro_count"], [*RIGHT[:-1], "ice"])
    if change == "samples":
        (tmp_path / "out/samples/micro_count.jsonl").unlink()
    result = run(model, tmp_path / "out", questions, limit=4 if change == "limit" else None)
    assert sum(model.batches) == (4 if change == "limit" else 7)
    assert result.scores["micro_count"].points == pytest.approx(600 / 7 if change == "data" else 100)
