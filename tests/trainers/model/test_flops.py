"""The operations of a stage, against PyTorch's own count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from support.tiny_models import ALL, Mode, parts
from trainers.contracts import Layout
from trainers.data.batch import Batch
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.job import Stage, Tune
from trainers.model.flops import TYPICAL, ModelShape, forward_flops, training_flops
from trainers.model.loading import build_model


@pytest.mark.parametrize("representation", ["clip@32", ALL, "clip@64|shuffle@2"])
@pytest.mark.parametrize("llm", ["frozen", "lora", "full"])
def test_operations_are_those_counted(folder: Path, representation: str, llm: Mode) -> None:
    """Half of attention is masked, which the counter does not know."""
    model = build_model(parts(folder, representation))
    train = {"connector": Tune(mode="full", lr=0.1), "llm": Tune(mode=llm, lr=0.1, rank=1)}
    model.tune(train, seed=0)
    words, image = 40, model.positions(Layout(*TYPICAL))
    ids = torch.tensor([[IMAGE_ID] * image + [5] * words])
    labels = ids.where(ids != IMAGE_ID, IGNORE_INDEX)
    seen = model.vision.look([[Image.new("RGB", TYPICAL)]])
    batch = Batch(("one",), ids, labels, torch.ones_like(ids), torch.where(ids == IMAGE_ID, 0, -1), seen)

    def counted() -> tuple[float, float]:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(batch).backward()
        by_kind = counter.get_flop_counts()["Global"]
        return float(counter.get_total_flops()), float(by_kind[torch.ops.aten.bmm])

    total, attention = counted()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.vision.encode(seen)
    attention -= float(counter.get_flop_counts()["Global"][torch.ops.aten.bmm])
    stage = Stage(data="x", template="chat", train=train, batch=1, micro_batch=1)
    found = training_flops(ModelShape.of(model), stage, words)
    assert found == pytest.approx(total - attention / 2, rel=0.1 if llm == "lora" else 0.03)
    cached = stage.model_copy(update={"cache_features": True})
    assert found - training_flops(ModelShape.of(model), cached, words) == pytest.approx(counter.get_total_flops())


def test_operations_without_gradients_are_those_counted(folder: Path) -> None:
    model = build_model(parts(folder, ALL))
    words, predicted, image = 40, 7, model.positions(Layout(*TYPICAL))
    ids = torch.tensor([[IMAGE_ID] * image + [5] * words])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[0, -predicted:] = 5
    seen = model.vision.look([[Image.new("RGB", TYPICAL)]])
    batch = Batch(("one",), ids, labels, torch.ones_like(ids), torch.where(ids == IMAGE_ID, 0, -1), seen)

    def counted(run: Callable[[], object]) -> tuple[int, int]:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            run()
        return counter.get_total_flops(), counter.get_flop_counts()["Global"][torch.ops.aten.bmm]

    total, attention = counted(lambda: model(batch))
    _, of_encoders = counted(lambda: model.vision.encode(seen))
    found = forward_flops(ModelShape.of(model), words, predicted)
    assert found == pytest.approx(total - (attention - of_encoders) / 2, rel=0.03)
