"""A committed result is evaluated by ranks as by one process; what is committed is only read."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from evals import launch as evaluating
from evals import load_benchmarks
from evals.launch import evaluate_result
from evals.request import EvaluationRequest
from evals.results import Results
from evals.runner import evaluate
from support import tiny
from support.evaluation import RIGHT, samples, trained_result, write_questions
from support.fork_server import living
from trainers.errors import CrashedError, PreemptedError
from trainers.model.loading import load_model
from trainers.ranks import launch as launching
from trainers.ranks import preemption

TWO = load_benchmarks("micro", ["micro_count", "micro_part"])


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRequest:
    """The evaluation of a tiny model on two benchmarks of 23 and 40 questions."""
    folder = tmp_path_factory.mktemp("evaluation")
    data = {
        "micro_count": write_questions(folder / "count.parquet", (RIGHT * 4)[:23]),
        "micro_part": write_questions(folder / "part.parquet", (RIGHT * 6)[:40]),
    }
    return EvaluationRequest(
        checkpoint=trained_result(folder), precision="fp32", benchmarks=TWO, batch_size=4, data=data
    )


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.02)
    with tiny.one_thread():
        yield


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_two_ranks_score_what_one_process_scores(
    request_of: EvaluationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = evaluate_result(request_of, tmp_path / "one", 1)
    monkeypatch.setattr(evaluating, "load_on_rank", refuse)  # in this process
    said: list[str] = []
    two = evaluate_result(request_of, tmp_path / "two", 2, report=said.append)
    assert two.scores == one.scores
    for name in ("micro_count", "micro_part"):
        assert samples(tmp_path / "two", name) == samples(tmp_path / "one", name)
        paths = [tmp_path / place / "results" / f"{name}.json" for place in ("one", "two")]
        ours, theirs = (json.loads(path.read_text()) for path in paths)
        assert ours | {"seconds": None} == theirs | {"seconds": None}
    assert any(text.startswith("evaluating micro_") and text.endswith("in each of 2 processes") for text in said)
    assert len({record["answer"] for record in samples(tmp_path / "one", "micro_part")}) > 3
    monkeypatch.setattr(launching.subprocess, "Popen", refuse)  # it is committed
    assert evaluate_result(request_of, tmp_path / "two", 2).scores == one.scores


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_single_process_of_its_own_scores_the_same(
    request_of: EvaluationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a GPU; here on the CPU."""
    here = evaluate_result(request_of, tmp_path / "here", 1)
    monkeypatch.setattr(evaluating, "apart", lambda processes: True)
    said: list[str] = []
    assert evaluate_result(request_of, tmp_path / "apart", 1, report=said.append).scores == here.scores
    assert (tmp_path / "apart" / "evaluation.log").exists()
    assert any(re.fullmatch(r"evaluating micro_(count|part), \d+ of (23|40)", text) for text in said)


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_after_a_rank_was_killed_it_goes_on_behind_the_last_benchmark(
    request_of: EvaluationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, first = tmp_path / "pids", tmp_path / "eval" / "results" / "micro_count.json"
    pids.mkdir()
    monkeypatch.setenv("FORKS_PIDS", str(pids))
    only = {"benchmarks": TWO[:1], "data": {"micro_count": request_of.data["micro_count"]}}
    evaluate_result(request_of.model_copy(update=only), tmp_path / "eval", 1)
    committed = first.read_bytes()

    def kill() -> None:
        if (pid := dict(living(pids)).get("evaluator")) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(CrashedError, match=r"evaluation in 2 processes failed: rank \d: .*SIGKILL.* \(see .*\.log\)$"):
        evaluate_result(request_of, tmp_path / "eval", 2, watch=kill)
    again = evaluate_result(request_of, tmp_path / "eval", 2)
    assert first.read_bytes() == committed
    assert again.scores == evaluate_result(request_of, tmp_path / "undisturbed", 1).scores


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_ranks_stop_when_their_controller_is_asked_to(request_of: EvaluationRequest, tmp_path: Path) -> None:
    request = request_of.model_copy(update={"batch_size": 1, "cache": tmp_path / "answers"})

    def stop(_: str) -> None:
        preemption._asked.set()

    try:
        with pytest.raises(PreemptedError, match="evaluation in 2 processes stopped as asked"):
            evaluate_result(request, tmp_path / "eval", 2, report=stop)
    finally:
        preemption._asked.clear()
    assert any((tmp_path / "answers").glob("*/rank*.jsonl"))


def test_what_an_earlier_version_committed_counts(
    request_of: EvaluationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whom the hash of all weights stood for the model, which was fp32 everywhere."""
    model = load_model(request_of.checkpoint)
    before = evaluate(model, TWO, tmp_path, data=request_of.data)
    paths = sorted((tmp_path / "results").iterdir())
    was = [json.loads(path.read_text()) for path in paths]
    assert {result["of"]["model"] for result in was} == {model.fingerprint}
    with monkeypatch.context() as patch:
        patch.setattr("evals.harness.Harness", refuse)
        assert evaluate_result(request_of, tmp_path, 1).scores == before.scores
        patch.setattr(evaluating, "load_on_rank", refuse)  # from then on the model is not needed
        assert evaluate_result(request_of, tmp_path, 1).scores == before.scores
    for path, old in zip(paths, was, strict=True):
        assert json.loads(path.read_text()) == old | {"of": old["of"] | {"model": request_of.identity}}


def test_its_identity_is_that_of_job_weights_and_precision(request_of: EvaluationRequest, tmp_path: Path) -> None:
    half = request_of.model_copy(update={"precision": "bf16"})
    other = request_of.model_copy(update={"checkpoint": trained_result(tmp_path)})
    assert half.identity != request_of.identity
    assert other.identity == request_of.identity  # elsewhere
    manifest = other.checkpoint / "commit.json"
    digests = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(digests | {"weights.safetensors": "0" * 64}))
    assert other.identity != request_of.identity
    assert EvaluationRequest.model_validate_json(half.model_dump_json()) == half
    assert Results.of(half.identity, TWO, tmp_path, None, half.data, evaluating.Store()).committed() == {}
