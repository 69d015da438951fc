"""easy-VQA: real pictures and questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals import evaluate, load_benchmarks
from support.evaluation import Oracle, samples


def test_easy_vqa(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="needs the package easy-vqa, of the extra dev")
    from evals import easy_vqa

    (benchmark,) = load_benchmarks("easy_vqa")
    data = {"easy_vqa": easy_vqa.write(tmp_path, samples=50)}
    model = Oracle(["yes"] * 256)
    score = evaluate(model, [benchmark], tmp_path / "out", data=data).scores["easy_vqa"]
    _, answers, images = pytest.importorskip("easy_vqa").get_test_questions()
    assert (score.points, score.samples) == (2 * answers[:50].count("yes"), 50)
    shown = [int(record["doc"]["image_id"]) for record in samples(tmp_path / "out", "easy_vqa")]
    assert shown == images[:50]  # several questions about each
    assert easy_vqa.floor() == pytest.approx(benchmark.floor, abs=0.05)
