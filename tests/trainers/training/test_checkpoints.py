"""A stage that was interrupted goes on from its last good checkpoint, and its result stays the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from support.training_jobs import BOTH, Interrupted, TinyJobs, damage, stopping, weights
from trainers.checkpoints import commit
from trainers.errors import TrainingError
from trainers.model.loading import load_model
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage


@pytest.fixture(scope="module")
def interrupted(jobs: TinyJobs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A stage stopped after its step 8, checkpoints 3 and 6 kept; and the weights that it ends with undisturbed."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interrupted):
        run_stage(jobs.make(BOTH), folder / "stage", stopping(8))
    return folder / "stage", weights(run_stage(jobs.make(BOTH), folder / "undisturbed"))


KINDS = ["unmarked", "half a mark", "empty mark", "a file missing", "cut short", "a bit of the weights"]
KINDS += ["a bit of the header", "a bit of the mark", "half-written"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_checkpoint_is_passed_over(interrupted: tuple[Path, bytes], tmp_path: Path, kind: str) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    assert commit.latest(stage) == commit.step_folder(stage, 6)
    damage(kind)(commit.step_folder(stage, 6))
    assert commit.latest(stage) == commit.step_folder(stage, 3)


@pytest.mark.parametrize("kind", ["a bit of the weights", "half-written"])
def test_a_stage_goes_on_from_the_checkpoint_before(
    jobs: TinyJobs, interrupted: tuple[Path, bytes], tmp_path: Path, kind: str
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    damage(kind)(commit.step_folder(stage, 6))
    steps: list[int] = []
    result = run_stage(jobs.make(BOTH), stage, lambda step, of, loss: steps.append(step))
    assert steps == list(range(4, 13))
    assert weights(result) == interrupted[1]
    assert [line.step for line in MetricsLog(stage / METRICS_LOG).read()] == list(range(1, 13))
    assert sorted(path.name for path in stage.iterdir()) == ["lock", METRICS_LOG, RESULT]
    assert run_stage(jobs.make(BOTH), stage, stopping(0)) == result  # nothing left to do


def test_an_interrupted_outbox_is_whole_again(jobs: TinyJobs, interrupted: tuple[Path, bytes], tmp_path: Path) -> None:
    """Steps after the last checkpoint are done, and told, once more; a line that was cut short is forgotten."""
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    outbox = MetricsLog(stage / METRICS_LOG)
    assert [line.step for line in outbox.read()] == list(range(1, 9))
    with outbox.path.open("a") as file:
        file.write('{"step": 9, "time": 17')
    assert [line.step for line in outbox.read()] == list(range(1, 9))
    with pytest.raises(Interrupted):
        run_stage(jobs.make(BOTH), stage, stopping(8))
    lines = outbox.read()
    assert [line.step for line in lines] == list(range(1, 9))
    assert all(set(line.metrics) >= {"loss", "lr", "grad_norm"} for line in lines)
    assert len(outbox.path.read_text().splitlines()) == 8


def test_checkpoints_of_another_job_are_not_taken_up(
    jobs: TinyJobs, interrupted: tuple[Path, bytes], tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    with pytest.raises(TrainingError, match="step-00000006: of another job; move .*stage away"):
        run_stage(jobs.make(BOTH, seed=1), stage)


def test_a_damaged_checkpoint_of_an_earlier_version_is_refused(
    jobs: TinyJobs, interrupted: tuple[Path, bytes], tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    target = commit.step_folder(stage, 7)
    with commit.commit_folder(target) as fresh:
        shutil.copy(commit.step_folder(stage, 6) / "state.json", fresh)
        torch.save({}, fresh / "optimizer.pt")
    with pytest.raises(TrainingError, match="step-00000007/optimizer.pt: not an optimizer's state: "):
        run_stage(jobs.make(BOTH), stage)


@pytest.mark.parametrize("kind", ["unmarked", "a bit of the weights", "a bit of the mark"])
def test_a_broken_result_is_refused_and_made_again(
    jobs: TinyJobs, interrupted: tuple[Path, bytes], tmp_path: Path, kind: str
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0].with_name("undisturbed"), stage)
    fingerprint = load_model(stage / RESULT).fingerprint
    damage(kind)(stage / RESULT)
    said = "no readable commit.json" if kind == "unmarked" else "(has changed or is broken|is missing|no readable)"
    with pytest.raises(TrainingError, match=rf"result: .*{said}"):
        load_model(stage / RESULT)
    if kind == "unmarked":
        assert load_model(run_stage(jobs.make(BOTH), stage)).fingerprint == fingerprint
    with pytest.raises(TrainingError, match="nowhere: not a committed checkpoint"):
        load_model(tmp_path / "nowhere")


def test_dropout_is_resumed_too(jobs: TinyJobs, tmp_path: Path) -> None:
    job = jobs.make(BOTH, llm="dropping")
    torch.rand(3)
    expected = run_stage(job, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        run_stage(job, tmp_path / "stage", stopping(5))
    torch.rand(3)
    assert weights(run_stage(job, tmp_path / "stage")) == weights(expected)
