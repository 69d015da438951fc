"""The encoders' vision transformers, and how they are stored: as folders of transformers or timm, in float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from studies.micro.pretrain.recipes import DEPTH, HEADS, MEAN, MLP, PATCH, STD, WIDTH

T = TypeVar("T")
_TIMM = "vit_tiny_patch16_224"  # the entry point; every dimension is overridden


def from_seed(seed: int, make: Callable[[], T]) -> T:
    """Call a function with the global generator seeded, and put the generator back: libraries initialise from it alone.

    Args:
        seed: of the generator.
        make: the function.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return make()


def clip_tower(size: int) -> Any:
    """A transformers CLIPVisionModel."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_shape(size), hidden_act="gelu"))


def siglip_tower(size: int) -> Any:
    """A transformers SiglipVisionModel."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**_shape(size)))


def dinov2_tower(size: int) -> Any:
    """A transformers Dinov2Model."""
    from transformers import Dinov2Config, Dinov2Model

    shape = _shape(size)
    del shape["intermediate_size"]
    return Dinov2Model(Dinov2Config(**shape, mlp_ratio=MLP // WIDTH))


def timm_tower(size: int) -> Any:
    """A timm VisionTransformer without a head."""
    import timm

    model = timm.create_model(
        _TIMM, img_size=size, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0
    )
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": MEAN, "std": STD, "input_size": (3, size, size)}
    return model


def _shape(size: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": size,
        "patch_size": PATCH,
    }


def store(model: Any, folder: Path) -> None:
    """Write config.json and model.safetensors in float16, as `from_pretrained` or timm's "local-dir:" read them.

    Args:
        model: of transformers or timm.
        folder: where it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = model.half()
    if hasattr(model, "save_pretrained"):  # transformers
        model.save_pretrained(folder)
    else:
        from timm.models import save_for_hf

        save_for_hf(model, str(folder), safe_serialization=True)
    (folder / "model.safetensors").chmod(0o644)


def resample_positions(table: torch.Tensor, side: int) -> torch.Tensor:
    """Resample a position embedding for another grid.

    Args:
        table: (1 + n * n, C) of a class token and a square grid.
        side: of the new grid.

    Returns:
        (1 + side * side, C).
    """
    old = round((len(table) - 1) ** 0.5)
    grid = table[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(side * side, -1)])
