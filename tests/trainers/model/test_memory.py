"""The memory that a plan reckons with, against what PyTorch's allocator gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support import tiny
from support.allocations import peak_bytes
from support.tiny_models import batcher, parts
from trainers.data.batch import Batch
from trainers.data.packing import pack
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX
from trainers.job import Recompute, Stage, Tune
from trainers.model.flops import ModelShape
from trainers.model.loading import build_model
from trainers.model.memory import MicroBatch, choose_recompute, stage_memory
from trainers.model.multimodal import MultimodalModel
from trainers.model.packed_attention import prepare_packing
from trainers.model.recompute import enable_recompute

FULL = Tune(mode="full", lr=1e-3)
STAGES: dict[str, dict[str, Tune]] = {
    "stage 1": {"connector": FULL},
    "stage 2": {"connector": FULL, "llm": FULL},
    "lora": {"connector": FULL, "llm": Tune(mode="lora", lr=1e-3, rank=8)},
    "tuned tower": {"vision": FULL, "connector": FULL, "llm": FULL},
}


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    """Language models that are large enough for their tensors to matter, one with a large vocabulary."""
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "tie_word_embeddings": False}
    tiny.llm(folder / "wide", **shape)
    tiny.llm(folder / "words", **shape | {"vocab_size": 6000})
    return folder


def stage_of(train: dict[str, Tune], **changes: Any) -> Stage:
    given: dict[str, Any] = {"batch": 8, "micro_batch": 8, "longest": 200, "precision": "fp32"} | changes
    return Stage(data="x", template="chat", train=train, **given)


def measured(model: MultimodalModel, batch: Batch, stage: Stage) -> float:
    """Bytes of weights and of the second of two steps, the first of which makes the optimizer's moments."""
    weights = sum(weight.nbytes for weight in model.parameters())
    enable_recompute(model.llm, stage.recomputed)
    model.train()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-4)

    def step() -> None:
        model(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    moments = sum(one.nbytes for state in optimizer.state.values() for one in state.values())
    return weights + moments + peak_bytes(step)


def content(batch: Batch) -> MicroBatch:
    predicted = int((batch.labels[:, 1:] != IGNORE_INDEX).sum())
    return MicroBatch(batch.input_ids.numel(), len(batch.seen.layouts) if batch.seen else 0, predicted)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("train", STAGES)
def test_a_plan_is_within_a_quarter_of_what_is_taken(
    models: Path, samples: Samples, train: str, recompute: Recompute
) -> None:
    stage = stage_of(STAGES[train], recompute=recompute)
    model = build_model(parts(models, "clip@32|linear", "wide"))
    shape = ModelShape.of(model)
    model.tune(stage.train, seed=0)
    batch = batcher(model, samples).batch(list(range(16)) + list(range(16)))
    planned, taken = stage_memory(shape, stage, 1, content(batch), half=False), measured(model, batch, stage)
    assert planned == pytest.approx(taken, rel=0.25)


@pytest.mark.parametrize("train", ["stage 1", "stage 2"])
def test_a_plan_knows_of_packing_and_of_large_vocabularies(models: Path, samples: Samples, train: str) -> None:
    """Packed rows hold no padding; the logits are as large as the activations here."""
    stage = stage_of(STAGES[train], pack=True)
    model = build_model(parts(models, "clip@32|linear", "words"))
    shape = ModelShape.of(model)
    model.tune(stage.train, seed=0)
    prepare_packing(model.llm)
    batch = pack(batcher(model, samples).batch(list(range(24))))
    load = content(batch)
    planned, taken = stage_memory(shape, stage, 1, load, half=False), measured(model, batch, stage)
    assert planned == pytest.approx(taken, rel=0.25)
    without = stage_memory(shape, stage, 1, MicroBatch(load.positions, load.images, 0), half=False)
    assert planned - without > 0.1 * planned


def test_the_longest_samples_decide(models: Path) -> None:
    stage = stage_of(STAGES["stage 2"], longest=2048)
    assert MicroBatch.largest(stage, 576, 336) == MicroBatch(8 * (576 + 4 * 336), 8, 8 * 4 * 336)
    assert MicroBatch.largest(stage, 576, 1000).positions == 8 * 2048  # where samples are cut
    packed = stage_of(STAGES["stage 2"], longest=2048, pack=True, tokens_per_pack=4096)
    assert MicroBatch.largest(packed, 576, 336) == MicroBatch(4096, 4, 4096 - 4 * 576)


def test_as_little_is_computed_again_as_memory_asks_for(models: Path) -> None:
    model = build_model(parts(models, "clip@32|linear", "wide"))
    shape, stage = ModelShape.of(model), stage_of(STAGES["stage 2"], recompute="auto")
    load = MicroBatch(4000, 16, 800)
    needs = {kind: stage_memory(shape, stage, 1, load, half=False, recompute=kind) for kind in ("none", "selective")}
    assert needs["none"] > needs["selective"]
    for memory, kind in ((2 * needs["none"], "none"), (1.2 * needs["selective"], "selective"), (1.0, "full")):
        assert choose_recompute(shape, stage, 1, load, half=False, memory=memory) == kind
