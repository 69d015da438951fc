"""The model as lmms-eval sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evals.response_cache import question_key
from support import tiny
from support.evaluation import GIVEN, Oracle, run, samples, write_questions
from trainers.errors import EvaluationError


def test_a_module_survives_the_harness(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Network(torch.nn.Linear):
        fingerprint, device = "network", torch.device("cpu")

        def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            return ["yes" if self.weight is not None else "" for _ in prompts]

    model = Network(2, 2)
    run(model, tmp_path / "a", questions)
    assert run(model, tmp_path / "b", questions).scores["micro_count"].points == pytest.approx(200 / 7)


def test_an_untrained_models_marks_are_stripped(tmp_path: Path, questions: dict[str, Path]) -> None:
    run(Oracle(["\x00y\x0be\ud800s\x1f"] * 7), tmp_path / "out", questions)
    assert samples(tmp_path / "out")[0]["answer"] == "yes"


def test_questions_of_equal_length_share_batches_over_the_whole_task(tmp_path: Path) -> None:
    """Where a model says what equal is; longest first, and each answer comes to its question."""

    class Lengths(Oracle):
        asked: list[list[int]] = []

        def prompt_length(self, image: Any, prompt: str) -> int:
            return len(prompt.split())

        def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            self.asked.append([self.prompt_length(None, prompt) for prompt in prompts])
            return super().generate(images, prompts, max_new_tokens)

    answers = [f"it is {i}" for i in range(40)]  # prompts of three, four and five words take turns
    data = {"micro_count": write_questions(tmp_path / "count.parquet", answers)}
    model = Lengths(answers)
    result = run(model, tmp_path / "out", data, batch_size=8)
    assert result.scores["micro_count"].points == 100
    assert [len(set(lengths)) for lengths in model.asked] == [1] * 6
    assert [len(lengths) for lengths in model.asked] == [8, 5, 8, 5, 8, 6]
    assert [lengths[0] for lengths in model.asked] == [5, 5, 4, 4, 3, 3]


def test_equal_questions_are_asked_once(tmp_path: Path, questions: dict[str, Path]) -> None:
    rows = pq.read_table(questions["micro_count"]).to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows, *rows]), questions["micro_count"])
    told: list[tuple[int, int]] = []
    model = Oracle(GIVEN)
    run(model, tmp_path / "out", questions, batch_size=3, progress=lambda _, done, of: told.append((done, of)))
    assert sum(model.batches) == 7
    assert told == [(6, 14), (12, 14), (14, 14)]
    assert [record["accuracy"] for record in samples(tmp_path / "out")] == [1, 1, 0, 1, 0, 1, 1] * 2


def test_several_images_and_videos_are_shown_where_a_benchmark_says_so(tmp_path: Path) -> None:
    from evals.adapter import AcsearchModel

    film = tiny.video(tmp_path / "film.mp4", ["red"] * 12)
    image, other = tiny.picture("red", 0), tiny.picture("blue", 1).convert("L")
    shown = AcsearchModel(Oracle([]), images="all")._image([image, other, str(film)], "task")
    assert isinstance(shown, list)
    assert [one.mode if isinstance(one, Image.Image) else len(one) for one in shown] == ["RGB", "RGB", 8]
    alone = AcsearchModel(Oracle([]), images="all")._image([image], "task")
    assert isinstance(alone, Image.Image)
    one = AcsearchModel(Oracle([]))._image([image], "task")
    assert question_key("what ?", alone, 4) == question_key("what ?", one, 4)
    keys = {question_key("what ?", given, 4) for given in (None, one, [image, image], [[image, image]], [image], shown)}
    assert len(keys) == 6
    with pytest.raises(EvaluationError, match="task: cannot read a video from"):
        AcsearchModel(Oracle([]), images="all")._image([str(tmp_path / "none.mp4")], "task")
    with pytest.raises(EvaluationError, match="task: shows 2 images at once and the model takes one"):
        AcsearchModel(Oracle([]))._image([image, image], "task")
