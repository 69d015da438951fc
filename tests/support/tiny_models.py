"""Models of tiny parts, and what of them has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trainers.data.collate import Batcher
from trainers.data.samples import Samples
from trainers.job import Parts
from trainers.model.multimodal import MultimodalModel

Mode = Literal["frozen", "lora", "full"]
ALL = "clip@32+siglip@32|pool@2"


def parts(folder: Path, representation: str = "clip@32", llm: str = "llama", template: str = "chat") -> Parts:
    registry = (folder / "encoders.yaml",)
    return Parts(representation=representation, llm=str(folder / llm), template=template, encoders=registry)


def batcher(model: MultimodalModel, samples: Samples) -> Batcher:
    return model.batcher(samples, longest=200)


def weights_of(model: MultimodalModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}
