"""A stage: what it learns, and that nothing which happens on the way, kill -9 included, changes its result."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support import ROOT, tiny
from support.ports import free_port
from trainers.checkpoints import commit
from trainers.data.batch import Batch
from trainers.data.manifest import read_manifest
from trainers.errors import CandidateError, CrashedError, DataError, PreemptedError, TrainingError
from trainers.job import Job, Parts, Stage, Tune, read_job
from trainers.model.loading import METRICS, MODEL, WEIGHTS, load_model
from trainers.model.multimodal import MultimodalModel
from trainers.training import launch as launching
from trainers.training import preemption, train
from trainers.training.error_file import read_error, write_error
from trainers.training.launch import launch
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, learning_rate, run_stage
from trainers.utils.progress import StepCallback

BOTH = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="full", lr=1e-2)}
LORA = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="lora", lr=1e-2, rank=4)}
CONNECTOR = {"connector": Tune(mode="full", lr=1e-2)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@dataclass(frozen=True)
class World:
    """Tiny parts and data, and jobs of them."""

    folder: Path

    def job(
        self, train: dict[str, Tune], *, llm: str = "llama", samples: int = 21, turns: int = 2, **changes: Any
    ) -> Job:
        """Of 21 samples in batches of 4, every eighth without an image: two of six steps have less, one ends short."""
        template = "plain" if turns == 1 else "chat"
        parts = changes.pop("parts", {})
        whole = {"identity": f"{samples} {turns} {llm}"}
        whole |= {name: value for name, value in changes.items() if name in Job.model_fields}
        settings = {"epochs": 2.0, "batch": 4, "micro_batch": 2, "longest": 100, "checkpoint_every": 3}
        settings |= {name: value for name, value in changes.items() if name not in whole}
        return Job(
            parts=Parts(
                representation=parts.get("representation", "clip@32+siglip@32|pool@2"),
                llm=str(self.folder / llm),
                template="chat",
                encoders=(self.folder / "encoders.yaml",),
                seed=parts.get("seed", 0),
            ),
            stage=Stage(data="x", template=template, train=train, **settings),  # type: ignore[arg-type]
            data=self.folder / f"{samples}" / f"turns-{turns}.json",
            features=self.folder / "features",
            **whole,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("training")
    tiny.llm(folder / "llama")
    tiny.llm(folder / "dropping", attention_dropout=0.3)
    tiny.encoders(folder)
    for samples in (8, 21):
        for turns in (1, 2):
            tiny.manifest(folder / f"{samples}", samples, turns)
    return World(folder)


class Interrupted(Exception):
    pass


def stopping(at: int) -> StepCallback:
    def watch(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise Interrupted

    return watch


def weights(result: Path) -> bytes:
    return (result / WEIGHTS).read_bytes()


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert set(ours) == set(theirs)
    for name, weight in ours.items():
        assert float((weight - theirs[name]).abs().max()) < tolerance, name


# -- what is learnt ----------------------------------------------------------------------------------------------------


def test_eight_captions_are_learnt_by_heart(world: World, tmp_path: Path) -> None:
    """Each colour from its picture: the model looks."""
    job = world.job(BOTH, samples=8, turns=1, epochs=40, batch=8, micro_batch=8, cache_features=True)
    result = run_stage(job, tmp_path)
    lines = MetricsLog(tmp_path / METRICS_LOG).read()
    assert lines[0].metrics["loss"] > 2.5
    assert lines[-1].metrics["loss"] < 0.05
    model = load_model(result)
    model.template = "plain"
    asked = [(colour, seed) for colour in tiny.COLOURS for seed in (100, 101)]
    answers = model.generate([tiny.picture(*one) for one in asked], [""] * len(asked), 1)
    assert answers == [colour for colour, _ in asked]
    metrics = json.loads((result / METRICS).read_text())
    assert (metrics["step"], metrics["tokens"], metrics["samples"]) == (40, 320, 320)
    assert json.loads((result / MODEL).read_text())["job"] == job.digest


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(world: World, tmp_path: Path) -> None:
    found = [learning_rate(step, 12, warmup=0.3) for step in range(12)]  # 4 steps of 12
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 8)])
    assert found[8] == pytest.approx(0.5)
    assert learning_rate(0, 1, warmup=0.0) == 1.0
    run_stage(world.job(CONNECTOR, warmup=0.3, checkpoint_every=0), tmp_path)
    used = [line.metrics["lr"] for line in MetricsLog(tmp_path / METRICS_LOG).read()]
    assert used == pytest.approx([1e-2 * factor for factor in found])


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_clipped(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: Any = None) -> Any:
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        norms.append(float(torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt()))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run_stage(world.job(BOTH, epochs=1, clip=clip), tmp_path)
    logged = [line.metrics["grad_norm"] for line in MetricsLog(tmp_path / METRICS_LOG).read()]
    assert len(norms) == 6
    assert max(logged) > 0.5
    assert norms == pytest.approx([min(norm, clip) for norm in logged] if clip else logged, rel=1e-3)


def seen_batches(monkeypatch: pytest.MonkeyPatch, change: Callable[[Batch, Any], Any]) -> list[tuple[str, ...]]:
    """What goes through the model from now on. change: of a batch's loss."""
    names: list[tuple[str, ...]] = []
    forward = MultimodalModel.forward

    def spy(self: MultimodalModel, batch: Batch) -> Any:
        names.append(batch.names)
        return change(batch, forward(self, batch))

    monkeypatch.setattr(MultimodalModel, "forward", spy)
    return names


def test_the_longest_batch_comes_first(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes nothing: the first step is that of a run without it."""
    job = world.job(BOTH)
    names = seen_batches(monkeypatch, lambda batch, loss: loss)
    run_stage(job, tmp_path / "first")
    lengths = {}
    manifest = read_manifest(job.data)
    for index in range(21):  # the answer is longer for green than for red
        lengths[manifest.name(index)] = manifest.lengths[index] + 4 * 4 * manifest.has_image(index)
    rehearsed, trained = names[0], names[1:]
    assert min(lengths[name] for name in rehearsed) == sorted(lengths.values())[-2]
    assert sorted(name for batch in trained for name in batch) == sorted(list(lengths) * 2)
    monkeypatch.setattr(train._Run, "preflight", lambda self: None)
    run_stage(job, tmp_path / "second")
    assert weights(tmp_path / "first" / RESULT) == weights(tmp_path / "second" / RESULT)


def test_out_of_memory_says_what_to_do(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(batch: Batch, loss: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    seen_batches(monkeypatch, out_of_memory)
    with pytest.raises(CandidateError, match=r"a micro-batch of 2 samples x \d+ positions: lower micro_batch \(the"):
        run_stage(world.job(BOTH), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_stage(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the batch, spoils nothing, and the stage may go on from before."""
    expected = run_stage(world.job(BOTH), tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        poison = iter([1.0] * 14 + [math.inf] * 99)  # after the rehearsal, 11 micro-batches, and 2 of the next epoch
        seen = seen_batches(patch, lambda batch, loss: loss * next(poison))
        with pytest.raises(CandidateError, match=r"step 8: loss inf, gradient norm (nan|inf); .* The batch: ") as error:
            run_stage(world.job(BOTH), tmp_path / "stage")
    said = str(error.value).split("The batch: ")[1].split(", ")
    assert len(said) == 4
    assert set(seen[14]) <= set(said)
    assert not (tmp_path / "stage" / RESULT).exists()
    assert [line.step for line in MetricsLog(tmp_path / "stage" / METRICS_LOG).read()] == list(range(1, 8))
    assert weights(run_stage(world.job(BOTH), tmp_path / "stage")) == weights(expected)


def test_bad_data_is_found_before_training(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "8", tmp_path / "data")
    (tmp_path / "data" / "6.png").write_bytes(b"")
    job = world.job(BOTH).model_copy(update={"data": tmp_path / "data" / "turns-2.json"})
    with pytest.raises(DataError, match="1 of 8 samples can't be trained on: sample sample-6: cannot read an image"):
        run_stage(job, tmp_path / "stage")
    assert not (tmp_path / "stage" / METRICS_LOG).exists()


def test_cached_features_train_the_same_model(world: World, tmp_path: Path) -> None:
    """As do other micro-batches, recomputed activations and loader processes: settings that are not the job's."""
    live = run_stage(world.job(BOTH), tmp_path / "live")
    others = [{"cache_features": True}, {"micro_batch": 3, "gradient_checkpointing": True}, {"workers": 2}]
    for number, changes in enumerate(others):
        job = world.job(BOTH, **changes)
        assert job.digest == world.job(BOTH).digest
        assert_close(run_stage(job, tmp_path / str(number)), live)


def test_precision_is_the_stages_whatever_ran_before(world: World, tmp_path: Path) -> None:
    coarse = run_stage(world.job(CONNECTOR, epochs=1, precision="bf16"), tmp_path / "bf16")
    fine = run_stage(world.job(CONNECTOR, epochs=1, precision="fp32"), tmp_path / "fp32")
    auto = run_stage(world.job(CONNECTOR, epochs=1), tmp_path / "auto")
    assert (weights(auto) == weights(fine)) != torch.cuda.is_available()
    assert weights(fine) != weights(coarse)
    assert_close(coarse, fine, tolerance=0.1)


def test_the_global_generators_and_the_terminal_are_left_alone(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run_stage(world.job(LORA, llm="dropping"), tmp_path)
        load_model(result).generate([tiny.picture("red", 0)], ["what is it ?"], 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert [str(one.message) for one in caught if "trainers" in one.filename or "transformers" in one.filename] == []
    assert tuple(capfd.readouterr()) == ("", "")


# -- stage after stage -------------------------------------------------------------------------------------------------


def test_a_result_holds_what_all_stages_trained(world: World, tmp_path: Path) -> None:
    """A stage that leaves the connector or LoRA's layers of the stage before it as they are still passes them on."""
    first = run_stage(world.job(LORA, turns=1), tmp_path / "1")
    before = dict(load_model(first).named_parameters())
    untrained = dict(load_model_untrained(first).named_parameters())
    learnt = {name for name in before if not torch.equal(before[name], untrained[name])}
    assert {name.split(".")[0] for name in learnt} == {"connector", "llm"}
    second = run_stage(world.job(CONNECTOR, start=first, identity="2"), tmp_path / "2")
    after = dict(load_model(second).named_parameters())
    for name in after:
        assert torch.equal(after[name], before[name]) == (not name.startswith("connector")), name
    third = run_stage(world.job({"llm": LORA["llm"]}, start=second, identity="3"), tmp_path / "3")
    last = dict(load_model(third).named_parameters())
    assert {name for name in last if not torch.equal(last[name], after[name])} == learnt - {
        name for name in learnt if name.startswith("connector")
    }
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "2")
    assert load_model(third).fingerprint == load_model(third).fingerprint


def test_a_tuned_encoder_is_kept_too(world: World, tmp_path: Path) -> None:
    tables = {mode: {"vision": Tune(mode=mode, lr=1e-3, rank=4)} | CONNECTOR for mode in ("full", "lora")}
    for mode, table in tables.items():
        result = run_stage(world.job(table), tmp_path / mode)
        before = dict(load_model_untrained(result).named_parameters())
        after = dict(load_model(result).named_parameters())
        learnt = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert learnt == {"vision", "connector"}


def load_model_untrained(result: Path) -> MultimodalModel:
    from trainers.model.loading import build_model

    return build_model(Parts.model_validate(json.loads((result / MODEL).read_text())["parts"]))


def test_a_start_of_other_parts_is_refused(world: World, tmp_path: Path) -> None:
    first = run_stage(world.job(CONNECTOR), tmp_path / "1")
    job = world.job(BOTH, start=first, parts={"representation": "clip@32"})
    with pytest.raises(TrainingError, match="weights of another model: connector"):
        run_stage(job, tmp_path / "2")
    with pytest.raises(TrainingError, match=r"nowhere: not a committed checkpoint"):
        run_stage(world.job(BOTH, start=tmp_path / "nowhere"), tmp_path / "3")


def test_the_digest_is_of_what_decides_the_result(world: World) -> None:
    job = world.job(BOTH)
    same = [
        world.job(BOTH, micro_batch=1, checkpoint_every=7, workers=3, gradient_checkpointing=True, cache_features=True),
        job.model_copy(update={"data": Path("/else"), "features": None, "labels": {"trial": "3"}}),
        job.model_copy(update={"parts": job.parts.model_copy(update={"llm": "/moved", "encoders": ()})}),
    ]
    assert {one.digest for one in same} == {job.digest}
    other = [
        world.job(LORA),
        world.job(BOTH, batch=8),
        world.job(BOTH, epochs=1),
        world.job(BOTH, seed=1),
        world.job(BOTH, identity="other"),
        world.job(BOTH, parts={"seed": 1}),
        world.job(BOTH, parts={"representation": "clip@32"}),
    ]
    assert len({one.digest for one in [job, *other]}) == 8


def test_a_job_travels_as_a_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(world.job(LORA).model_dump_json())
    assert read_job(path) == world.job(LORA)
    path.write_text("{}")
    with pytest.raises(TrainingError, match="job.json: not a training job"):
        read_job(path)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A stage stopped after its step 8, checkpoints 3 and 6 kept; and the weights that it ends with undisturbed."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interrupted):
        run_stage(world.job(BOTH), folder / "stage", stopping(8))
    return folder / "stage", weights(run_stage(world.job(BOTH), folder / "undisturbed"))


def flip(path: Path, place: float = 0.5) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def broken(kind: str) -> Callable[[Path], object]:
    """What may happen to a checkpoint."""
    breaks: dict[str, Callable[[Path], object]] = {
        "unmarked": lambda folder: (folder / commit.MANIFEST).unlink(),
        "half a mark": lambda folder: os.truncate(folder / commit.MANIFEST, 40),
        "empty mark": lambda folder: (folder / commit.MANIFEST).write_text("{}"),
        "a file missing": lambda folder: (folder / "state.json").unlink(),
        "cut short": lambda folder: os.truncate(folder / "optimizer.pt", 1000),
        "a bit of the weights": lambda folder: flip(folder / WEIGHTS),
        "a bit of the optimizer": lambda folder: flip(folder / "optimizer.pt", 0.9),
        "a bit of the mark": lambda folder: flip(folder / commit.MANIFEST),
        "half-written": lambda folder: folder.rename(folder.with_name(f".{folder.name}.99999")),
    }
    return breaks[kind]


KINDS = ["unmarked", "half a mark", "empty mark", "a file missing", "cut short", "a bit of the weights"]
KINDS += ["a bit of the optimizer", "a bit of the mark", "half-written"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_checkpoint_is_passed_over(interrupted: tuple[Path, bytes], tmp_path: Path, kind: str) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    assert commit.latest(stage) == commit.step_folder(stage, 6)
    broken(kind)(commit.step_folder(stage, 6))
    assert commit.latest(stage) == commit.step_folder(stage, 3)


@pytest.mark.parametrize("kind", ["a bit of the weights", "half-written"])
def test_a_stage_goes_on_from_the_checkpoint_before(
    world: World, interrupted: tuple[Path, bytes], tmp_path: Path, kind: str
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    broken(kind)(commit.step_folder(stage, 6))
    steps: list[int] = []
    result = run_stage(world.job(BOTH), stage, lambda step, of, loss: steps.append(step))
    assert steps == list(range(4, 13))
    assert weights(result) == interrupted[1]
    assert [line.step for line in MetricsLog(stage / METRICS_LOG).read()] == list(range(1, 13))
    assert sorted(path.name for path in stage.iterdir()) == ["lock", METRICS_LOG, RESULT]
    assert run_stage(world.job(BOTH), stage, stopping(0)) == result  # nothing left to do


def test_an_interrupted_outbox_is_whole_again(world: World, interrupted: tuple[Path, bytes], tmp_path: Path) -> None:
    """Steps after the last checkpoint are done, and told, once more; a line that was cut short is forgotten."""
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    outbox = MetricsLog(stage / METRICS_LOG)
    assert [line.step for line in outbox.read()] == list(range(1, 9))
    with outbox.path.open("a") as file:
        file.write('{"step": 9, "time": 17')
    assert [line.step for line in outbox.read()] == list(range(1, 9))
    with pytest.raises(Interrupted):
        run_stage(world.job(BOTH), stage, stopping(8))
    lines = outbox.read()
    assert [line.step for line in lines] == list(range(1, 9))
    assert all(set(line.metrics) >= {"loss", "lr", "grad_norm"} for line in lines)
    assert len(outbox.path.read_text().splitlines()) == 8


def test_checkpoints_of_another_job_are_not_taken_up(
    world: World, interrupted: tuple[Path, bytes], tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0], stage)
    with pytest.raises(TrainingError, match="step-00000006: of another job; move .*stage away"):
        run_stage(world.job(BOTH, seed=1), stage)


@pytest.mark.parametrize("kind", ["unmarked", "a bit of the weights", "a bit of the mark"])
def test_a_broken_result_is_refused_and_made_again(
    world: World, interrupted: tuple[Path, bytes], tmp_path: Path, kind: str
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(interrupted[0].with_name("undisturbed"), stage)
    fingerprint = load_model(stage / RESULT).fingerprint
    broken(kind)(stage / RESULT)
    said = "no readable commit.json" if kind == "unmarked" else "(has changed or is broken|is missing|no readable)"
    with pytest.raises(TrainingError, match=rf"result: .*{said}"):
        load_model(stage / RESULT)
    if kind == "unmarked":
        assert load_model(run_stage(world.job(BOTH), stage)).fingerprint == fingerprint
    with pytest.raises(TrainingError, match="nowhere: not a committed checkpoint"):
        load_model(tmp_path / "nowhere")


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "one"

    def write() -> None:
        with commit.commit_folder(folder) as fresh:
            (fresh / "a").write_text("a")
            assert not folder.exists()
            raise Interrupted

    with pytest.raises(Interrupted):
        write()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".one.123").mkdir()  # of a process that died
    with commit.commit_folder(folder) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "a").write_text("a")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert set(json.loads((folder / commit.MANIFEST).read_text())) == {"deep/a"}
    assert commit.committed(folder)
    for number in range(5):
        with commit.commit_folder(commit.step_folder(tmp_path, 10**number)) as fresh:
            (fresh / "a").write_text("a")
    commit.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00001000", "step-00010000"]


def test_dropout_is_resumed_too(world: World, tmp_path: Path) -> None:
    job = world.job(BOTH, llm="dropping")
    torch.rand(3)
    expected = run_stage(job, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        run_stage(job, tmp_path / "stage", stopping(5))
    torch.rand(3)
    assert weights(run_stage(job, tmp_path / "stage")) == weights(expected)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forks() -> Any:
    """Makes processes that have imported everything already, and done nothing else: in a second, not in ten."""
    context = multiprocessing.get_context("forkserver")
    models = [f"transformers.models.{name}.modeling_{name}" for name in ("auto", "clip", "llama", "siglip")]
    context.set_forkserver_preload(["trainers.training.train", "peft", *models])
    return context


def start(context: Any, job: Job, folder: Path, world: int = 1) -> list[Any]:
    port = free_port()
    ranks = [context.Process(target=tiny.rank, args=(job, folder, rank, world, port)) for rank in range(world)]
    for one in ranks:
        one.start()
    return ranks


def finish(ranks: list[Any], seconds: float = 120) -> list[int | None]:
    """Exit codes."""
    until = time.monotonic() + seconds
    for one in ranks:
        one.join(max(0.0, until - time.monotonic()))
    hanging = [one for one in ranks if one.is_alive()]
    for one in hanging:
        one.kill()
        one.join()
    assert not hanging, "hangs"
    return [one.exitcode for one in ranks]


@pytest.mark.parametrize(("processes", "kills"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("stage", ["connector", "both"])
def test_killed_at_any_moment_and_resumed(
    world: World, forks: Any, tmp_path: Path, stage: str, processes: int, kills: int
) -> None:
    """kill -9 changes nothing: the result is that of an undisturbed run to the last bit."""
    job = {
        "connector": world.job(CONNECTOR, turns=1, cache_features=True, checkpoint_every=2, epochs=4),
        "both": world.job(BOTH, checkpoint_every=2, epochs=4),
    }[stage]
    alone = run_stage(job, tmp_path / "alone")
    if processes > 1:
        assert finish(start(forks, job, tmp_path / "undisturbed", processes)) == [0] * processes
        assert_close(alone, tmp_path / "undisturbed" / RESULT)
    expected = weights(tmp_path / ("alone" if processes == 1 else "undisturbed") / RESULT)
    folder, seed = tmp_path / "killed", random.randrange(10**6)
    outbox, chance = MetricsLog(folder / METRICS_LOG), random.Random(seed)
    print("seed", seed)  # shown when the test fails
    goal = 0
    for _ in range(kills):
        goal += chance.randrange(3, 9)
        ranks, until = start(forks, job, folder, processes), time.monotonic() + 120
        while max((line.step for line in outbox.read()), default=0) < goal:
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(chance.random() * 0.03)
        for one in chance.sample(ranks, len(ranks)):
            one.kill()
        finish(ranks)
        steps = [line.step for line in outbox.read()]
        assert steps == list(range(1, len(steps) + 1))
    assert finish(start(forks, job, folder, processes)) == [0] * processes
    assert weights(folder / RESULT) == expected
    assert [line.step for line in outbox.read()] == list(range(1, 25))
    assert sorted(path.name for path in folder.iterdir()) == ["lock", METRICS_LOG, RESULT]


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_what_one_trains(world: World, forks: Any, tmp_path: Path, shard: bool) -> None:
    """Though one has text alone where the other has an image, and no sample at all at the end of an epoch."""
    job = world.job(LORA, micro_batch=1, epochs=1, shard=shard)  # the last batch is one sample
    assert finish(start(forks, job, tmp_path / "two", 2)) == [0, 0]
    assert_close(run_stage(job, tmp_path / "one"), tmp_path / "two" / RESULT)
    one, two = (MetricsLog(tmp_path / name / METRICS_LOG).read() for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        for metric in ("loss", "lr", "grad_norm"):
            assert ours.metrics[metric] == pytest.approx(theirs.metrics[metric], rel=1e-4)


def test_whoever_comes_second_waits(world: World, forks: Any, tmp_path: Path) -> None:
    """Two studies may want the same stage at the same time."""
    job = world.job(BOTH, epochs=6)
    ranks = start(forks, job, tmp_path)
    while not (tmp_path / METRICS_LOG).exists():
        time.sleep(0.01)
    result = run_stage(job, tmp_path, stopping(1))
    assert finish(ranks) == [0]
    assert commit.committed(result)
    assert [line.step for line in MetricsLog(tmp_path / METRICS_LOG).read()] == list(range(1, 37))


@pytest.mark.usefixtures("at_once")
def test_the_command_is_killed_and_resumed(world: World, tmp_path: Path) -> None:
    """`python -m trainers`, which says nothing unless it fails."""
    job = world.job(LORA, epochs=8, checkpoint_every=2)
    path, folder = tmp_path / "job.json", tmp_path / "stage"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(path), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 120
    moment = random.randrange(3, 20)
    while len(MetricsLog(folder / METRICS_LOG).read()) < moment:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    output, _ = child.communicate()
    assert output == b""
    result = run_stage(job, folder)
    assert weights(result) == weights(run_stage(job, tmp_path / "undisturbed"))
    assert [line.step for line in MetricsLog(folder / METRICS_LOG).read()] == list(range(1, 49))


def test_launch_trains_in_several_processes(world: World, tmp_path: Path) -> None:
    job, seen = world.job(CONNECTOR, labels={"trial": "3"}), []
    result = launch(job, tmp_path / "two", 2, lambda *told: seen.append(told))
    assert_close(launch(job, tmp_path / "one", 1), result)
    assert all(1 <= step <= steps == 12 and loss > 0 for step, steps, loss in seen)
    assert json.loads((result / MODEL).read_text())["labels"] == {"trial": "3"}
    assert launch(job, tmp_path / "two", 2) == result


@pytest.mark.usefixtures("at_once")
def test_asked_by_a_signal_it_stops_at_a_committed_step(world: World, tmp_path: Path) -> None:
    job = world.job(LORA, epochs=8, checkpoint_every=0)
    path, folder = tmp_path / "job.json", tmp_path / "stage"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(path), str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while len(MetricsLog(folder / METRICS_LOG).read()) < 5:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(random.choice(preemption.SIGNALS))
    assert child.wait(120) == preemption.EXIT_CODE
    steps = len(MetricsLog(folder / METRICS_LOG).read())
    kept = commit.latest(folder)
    assert kept == commit.step_folder(folder, steps)
    assert 5 <= steps < 48
    assert weights(run_stage(job, folder)) == weights(run_stage(job, tmp_path / "undisturbed"))


@pytest.mark.usefixtures("at_once")
def test_several_processes_stop_after_the_same_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the one that launched them is asked."""
    job, folder = world.job(BOTH, epochs=12, checkpoint_every=0), tmp_path / "stage"
    monkeypatch.setattr(preemption, "_asked", threading.Event())
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.05)
    with pytest.raises(PreemptedError, match="2 processes stopped as asked"):
        launch(job, folder, 2, lambda step, steps, loss: preemption._asked.set())
    lines = MetricsLog(folder / METRICS_LOG).read()
    assert commit.latest(folder) == commit.step_folder(folder, len(lines))
    assert 0 < len(lines) < 72
    preemption._asked.clear()
    assert weights(launch(job, folder, 2)) == weights(launch(job, tmp_path / "undisturbed", 2))


@pytest.mark.parametrize(
    ("said", "error"),
    [("DataError: no such data", DataError), ("RuntimeError: no such data", CrashedError)],
)
def test_launch_says_why_it_failed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho first\necho {said} >&2\necho rank 1 ended\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(python))
    with pytest.raises(error, match=r"in 2 processes failed: .*no such data \(see .*train.log\)$"):
        launch(world.job(CONNECTOR), tmp_path / "stage", 2)


def python_without_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str) -> None:
    """Has `launch` start a shell script in torchrun's place, whose arguments are those of a training process."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nshift 4\n{commands}\n")
    python.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(python))


def test_launch_raises_what_its_processes_raised(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.job(CONNECTOR).model_copy(update={"data": tmp_path / "CrashedError: no\nDataError: such"})
    with pytest.raises(DataError) as expected:
        run_stage(job, tmp_path / "one")
    assert str(job.data) in str(expected.value)
    python_without_torchrun(tmp_path, monkeypatch, f'cd {ROOT} && exec {sys.executable} "$@"')
    with pytest.raises(DataError) as caught:
        launch(job, tmp_path / "two", 2)
    log = tmp_path / "two" / "train.log"
    assert str(caught.value) == f"training in 2 processes failed: {expected.value} (see {log})"


def test_a_killed_process_is_a_crash_whatever_failed_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    for text in ("before", "later"):
        write_error(stage, DataError(text))
    assert str(read_error(stage)) == "before"  # the first one stays
    assert [path.name for path in stage.iterdir()] == ["error.json"]
    python_without_torchrun(tmp_path, monkeypatch, "echo at work; kill -9 $$")
    with pytest.raises(CrashedError, match=r"^training in 2 processes failed: at work \(see .*train.log\)$"):
        launch(world.job(CONNECTOR), stage, 2)
