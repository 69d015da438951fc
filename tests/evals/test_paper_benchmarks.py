"""The paper's benchmarks on a few synthetic rows: known scores for known answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evals import BenchmarkScore, evaluate
from support.evaluation import LAW, Oracle
from support.paper_benchmarks import FULL_MARKS, rows, save
from trainers.errors import EvaluationError


@pytest.mark.parametrize("name", LAW)
def test_a_benchmark_of_the_paper(name: str, tmp_path: Path) -> None:
    """Known scores for who is right, who is wrong, and who is right on the first half; on the scale of the paper."""
    data = {name: save(name, tmp_path / "data")}
    _, _, right = rows(name)
    kept = 4
    half = [*right[:2], *["wrong"] * (len(right) - 2)]
    got = {
        kind: evaluate(Oracle(answers, kind), [LAW[name]], tmp_path / kind, data=data).scores[name]
        for kind, answers in {"right": right, "wrong": ["wrong"] * len(right), "half": half}.items()
    }
    full = FULL_MARKS.get(name, 100.0)
    assert got["right"].points == pytest.approx(full, abs=0.001)
    assert {score.samples for score in got.values()} == {kept}
    if name == "mmmu_val":  # an answer that cannot be read is replaced by a guess, the same every time
        again = evaluate(Oracle(["wrong"] * 4, "wrong again"), [LAW[name]], tmp_path / "again", data=data).scores[name]
        assert again == got["wrong"]
        return
    assert got["wrong"].points == 0
    # both rotations have to be right; one of MME's two subtasks is; else two of four samples
    assert got["half"].points == pytest.approx({"mmbench_en": 0.0, "mme": 200.0}.get(name, 50.0))
    if name in ("ok_vqa", "vizwiz_vqa_val", "scienceqa_img", "seed_image"):
        assert got["half"].standard_error == pytest.approx(100 * math.sqrt(1 / 3) / 2)
    if name == "textvqa_val":  # rows 0 and 3 are about one image: residuals 0, 0.5, -0.5
        assert got["half"].standard_error == pytest.approx(100 * math.sqrt(1.5 * 0.5) / 4)


def test_a_limit_keeps_what_is_scored_together(tmp_path: Path) -> None:
    data = {"mme": save("mme", tmp_path / "data")}
    result = evaluate(Oracle(["Yes"] * 6), [LAW["mme"]], tmp_path / "out", data=data, limit=1)
    assert result.scores["mme"] == BenchmarkScore(50.0, None, 2)


def test_several_images_are_an_error_unless_the_first_is_asked_for(tmp_path: Path) -> None:
    data = {"mmmu_val": save("mmmu_val", tmp_path / "data")}
    one = LAW["mmmu_val"].model_copy(update={"images": "one"})
    with pytest.raises(EvaluationError, match="mmmu_val: shows 2 images at once and the model takes one"):
        evaluate(Oracle([]), [one], tmp_path / "out", data=data, batch_size=1)
