"""Damaged checkpoints, jobs and language models: whole and loaded, or refused; and no pickle in them ever runs.

Half of the damage is sealed again by a mark that fits it, as a foreign or a hostile folder's would.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support import fuzzing, tiny
from support.fuzzing import accepted, cases, damaged_bytes, damaged_tree
from trainers.checkpoints import commit
from trainers.checkpoints.work_store import Store
from trainers.encoders import load_registry, make_encoder
from trainers.errors import TrainingError
from trainers.job import Job, Parts, Stage, Tune, read_job
from trainers.model.loading import MODEL, WEIGHTS, load_llm, load_model
from trainers.representation import Part
from trainers.training.train import _Run, run_stage

SHARD = "shard-00001-model-00001-of-00001.safetensors"
PICTURE = tiny.picture("red", 0)


@dataclass(frozen=True)
class World:
    """A tiny model's parts, a stage of training cut off after a checkpoint, and its result."""

    folder: Path
    job: Job
    stage: Path
    step: Path
    result: Path
    run: _Run


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("checkpoints")
    with tiny.one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        parts = Parts(
            representation="clip@32|pool@2",
            llm=str(tiny.llm(folder / "llm")),
            template="chat",
            encoders=(tiny.encoders(folder),),
        )
        stage = Stage(
            data="x",
            template="chat",
            train={"connector": Tune(mode="full", lr=1e-2), "llm": Tune(mode="lora", lr=1e-2, rank=2)},
            batch=4,
            micro_batch=4,
            longest=100,
            checkpoint_every=1,
        )
        job = Job(parts=parts, stage=stage, data=tiny.manifest(folder / "data", 8), identity="tiny")

        def stop(step: int, steps: int, loss: float) -> None:
            if step == 2:
                raise Interrupted

        with contextlib.suppress(Interrupted):
            run_stage(job, folder / "stage", stop)
        step = commit.latest(folder / "stage")
        assert step is not None
        result = run_stage(job, folder / "whole")
        run = _Run(job, folder / "again", Accelerator(cpu=True), Store())
        yield World(folder, job, folder / "stage", step, result, run)


def sealed(folder: Path) -> None:
    """A mark that fits what the folder holds."""
    (folder / commit.MANIFEST).unlink(missing_ok=True)
    files = {path.name: commit.sha256(path) for path in folder.iterdir() if path.is_file()}
    (folder / commit.MANIFEST).write_text(json.dumps(files))


WRONG = [None, "x", "", -1, 0, 3.5, True, [], {}, [3, 5], "missing"]  # for a value of a configuration
WEIGHT_CHANGES = ["drop", "rename", "extra", "reshape", "int", "nan", "empty", "scalar", "complex", "half", "none left"]


class Escaped:
    """Unpickled anywhere, it leaves a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


def damage(draw: fuzzing.Draw, folder: Path, kinds: dict[str, list[str]], escaped: Path) -> None:
    """Damage one file of a folder in a way that it can be. kinds: by file."""
    name = draw(st.sampled_from(sorted(kinds)))
    kind, path = draw(st.sampled_from([*kinds[name], "bytes", "missing"])), folder / name
    if kind == "missing":
        path.unlink()
    elif kind == "bytes":
        path.write_bytes(draw(damaged_bytes(path.read_bytes())))
    elif kind == "tree":
        path.write_text(json.dumps(draw(damaged_tree(json.loads(path.read_text()))), default=str))
    elif kind == "value":
        change_value(draw, path)
    elif kind == "weights":
        change_weights(draw, path)
    elif kind == "pickle":
        path.with_name("shard.pt").write_bytes(pickle.dumps(Escaped(escaped)))
        torch.save(draw(st.sampled_from([Escaped(escaped), {"state": Escaped(escaped)}])), path)
    elif kind == "places":
        change_places(draw, path)


def change_places(draw: fuzzing.Draw, path: Path) -> None:
    """Where the shards of a checkpoint say that they belong."""
    weights = load_file(path)
    places = {name: {"saved_offsets": [0] * weight.ndim} for name, weight in weights.items()}
    name = draw(st.sampled_from(sorted(places)))
    wrong = draw(st.sampled_from([[1], [-1], [10**12], [0.5], ["x"], [], [0] * 9, None, {}]))
    places[name] = draw(st.sampled_from([{"saved_offsets": wrong}, {}]))
    said = draw(st.sampled_from([json.dumps(places), "[]", "{", "null", "1"]))
    save_file(weights, path, metadata={"format": "pt", "DCP_SHARDING_INFO": said})


def change_value(draw: fuzzing.Draw, path: Path) -> None:
    """Not by a larger number, which may well be meant, and would have us build a model of that size."""
    values = json.loads(path.read_text())
    name, wrong = draw(st.sampled_from(sorted(values))), draw(st.sampled_from(WRONG))
    if wrong == "missing":
        del values[name]
    else:
        values[name] = wrong
    path.write_text(json.dumps(values))


def change_weights(draw: fuzzing.Draw, path: Path) -> None:
    weights = load_file(path)
    name, change = draw(st.sampled_from(sorted(weights))), draw(st.sampled_from(WEIGHT_CHANGES))
    weight = weights[name]
    if change in ("drop", "rename"):
        del weights[name]
    if change == "rename":
        weights[draw(st.sampled_from(["x", f"{name}.weight", f"module.{name}"]))] = weight
    others = {
        "reshape": weight.reshape(1, -1),
        "int": weight.to(torch.int32),
        "nan": weight * float("nan"),
        "empty": torch.empty(0),
        "scalar": torch.tensor(1.0),
        "complex": weight.to(torch.complex64),
        "half": weight.half(),
    }
    if change in others:
        weights[name] = others[change]
    elif change == "extra":
        weights["connector.extra"] = weight.clone()
    save_file({} if change == "none left" else weights, path, metadata={"format": "pt"})


@cases(60, st.data())
def test_result(world: World, tmp_path: Path, damaged: st.DataObject) -> None:
    folder = tmp_path / "result"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.result, folder)
    kinds = {WEIGHTS: ["weights"] * 4, MODEL: ["tree"] * 8, commit.MANIFEST: ["tree", "tree"]}
    damage(damaged.draw, folder, kinds, tmp_path / "escaped")
    if damaged.draw(st.sampled_from([True, True, False])):
        sealed(folder)

    def read() -> None:
        model = load_model(folder)
        assert all(weight.isfinite().all() for weight in model.parameters())
        assert torch.isfinite(model.image_tokens([PICTURE]).values).all()

    accepted(read, tmp_path, [str(folder), "clip", "language model", "cannot read", "connector"])


@cases(120, st.data())
def test_checkpoint_to_go_on_from(world: World, tmp_path: Path, damaged: st.DataObject) -> None:
    """One that is broken does not count; one that is whole and does not belong there stops the run."""
    folder = tmp_path / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.step, folder / world.step.name)
    kinds = {SHARD: ["weights", "weights", "places", "places", "pickle"], "state.json": ["tree"] * 8}
    damage(damaged.draw, folder / world.step.name, kinds | {commit.MANIFEST: ["tree"]}, tmp_path / "escaped")
    if damaged.draw(st.sampled_from([True, True, False])):
        sealed(folder / world.step.name)

    def read() -> None:
        step = commit.latest(folder)
        if step is None:
            return
        run = world.run
        progress = run.checkpoints.load(step, run.unwrapped, run.optimizer, run.schedule.steps)
        assert 0 <= progress.step <= run.schedule.steps
        for weight in run.unwrapped.trainable().values():
            assert weight.isfinite().all()
            moments = run.optimizer.state.get(weight, {})
            assert all(moment.shape in (weight.shape, ()) for moment in moments.values())

    accepted(read, tmp_path, [str(folder)])
    assert not (tmp_path / "escaped").exists()


def test_a_hostile_checkpoint_stops_the_run_before_it_writes(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    shutil.copytree(world.stage, folder)
    torch.save({"state": Escaped(tmp_path / "escaped")}, folder / world.step.name / SHARD)
    sealed(folder / world.step.name)
    before = fuzzing.contents(folder)
    with pytest.raises(TrainingError, match="step-.*: its tensors cannot be read"):
        run_stage(world.job, folder)
    assert fuzzing.contents(folder) == before
    assert not (tmp_path / "escaped").exists()


@cases(60, st.data())
def test_encoder(world: World, tmp_path: Path, damaged: st.DataObject) -> None:
    name, width = damaged.draw(st.sampled_from([("clip", 24), ("siglip", 16)]))
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.copytree(world.folder / name, tmp_path / name)
    shutil.copy(world.folder / "encoders.yaml", tmp_path)
    damage(
        damaged.draw,
        tmp_path / name,
        {"model.safetensors": ["weights"] * 4, "config.json": ["value"] * 8},
        tmp_path / "escaped",
    )

    def read() -> None:
        encoder = make_encoder(Part(name, 32), load_registry(tmp_path / "encoders.yaml"))
        maps = encoder.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
        assert maps.shape == (1, 4, 4, width)

    accepted(read, tmp_path, [name])


@cases(40, st.data())
def test_language_model(world: World, tmp_path: Path, damaged: st.DataObject) -> None:
    folder = tmp_path / "llm"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.folder / "llm", folder)
    kinds = {"model.safetensors": ["weights"] * 4, "config.json": ["value"] * 4, "tokenizer.json": []}
    damage(damaged.draw, folder, kinds, tmp_path / "escaped")

    def read() -> None:
        llm, tokenizer = load_llm(str(folder))
        assert not any(weight.is_meta for weight in llm.parameters())  # one that is NaN stops training at its loss
        assert len(tokenizer)

    accepted(read, tmp_path, [str(folder)])


@cases(60, st.data())
def test_job(world: World, tmp_path: Path, damaged: st.DataObject) -> None:
    path = tmp_path / "job.json"
    path.write_text(world.job.model_dump_json())
    damage(damaged.draw, tmp_path, {"job.json": ["tree"] * 8}, tmp_path / "escaped")
    accepted(lambda: read_job(path).digest, tmp_path, ["job.json"])
