"""Answers are kept: an interrupted evaluation goes on after its last batch, and no answer is taken for another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.response_cache import Answers
from support.evaluation import GIVEN, RIGHT, Oracle, run, write_questions


def test_an_interrupted_evaluation_takes_up_after_its_last_batch(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Preempted(BaseException):
        pass

    def stop(_: str, done: int, __: int) -> None:
        if done >= 4:
            raise Preempted

    with pytest.raises(Preempted):
        run(Oracle(GIVEN), tmp_path / "out", questions, batch_size=2, cache=tmp_path / "cache", progress=stop)
    assert not (tmp_path / "out/results").exists()
    (cached,) = (tmp_path / "cache").glob("*/rank0.jsonl")
    cached.write_bytes(cached.read_bytes()[:-10])  # and the last line is torn
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions, batch_size=2, cache=tmp_path / "cache")
    assert sum(model.batches) == 7 - 3
    assert result.scores["micro_count"].points == pytest.approx(500 / 7)
    assert len(Answers(tmp_path / "cache", "oracle")._known) == 7


def test_the_cache_knows_weights_and_pixels(tmp_path: Path, questions: dict[str, Path]) -> None:
    cache = tmp_path / "cache"
    run(Oracle(GIVEN), tmp_path / "a", questions, cache=cache)
    same, other = Oracle(GIVEN), Oracle(RIGHT, fingerprint="other")
    assert run(same, tmp_path / "b", questions, cache=cache).scores["micro_count"].points == pytest.approx(500 / 7)
    assert run(other, tmp_path / "c", questions, cache=cache).scores["micro_count"].points == 100
    assert (sum(same.batches), sum(other.batches)) == (0, 7)
    write_questions(questions["micro_count"], ["no", *RIGHT])  # the old prompts about other pictures
    assert run(Oracle([*GIVEN, "?"]), tmp_path / "d", questions, cache=cache).scores["micro_count"].samples == 8
