"""`encoders.yaml`: the registry's rows of the micro encoders, written from the recipes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from studies.micro.pretrain.recipes import ENCODERS, MEAN, NOISE_LEVEL, PATCH, STD, WIDTH, Recipe

_ADAPTERS = {  # objective: adapter, model type, prefix tokens
    "clip": ("transformers", "clip_vision_model", 1),
    "siglip": ("transformers", "siglip_vision_model", 0),
    "dino": ("transformers", "dinov2", 1),
    "denoiser": ("denoiser", None, 1),
}
_TIMM = ("timm", None, 1)
_NOISE = {  # the control: knows nothing of an image, in as many channels as the others
    "adapter": "noise",
    "licence": "none needed",
    "patch": PATCH,
    "width": WIDTH,
    "mean": list(MEAN),
    "std": list(STD),
    "native_size": ENCODERS[0].size,
}
_HEAD = "# The micro study's encoders. Written by `python -m studies.micro.pretrain`; their READMEs tell how.\n"


def rows(weights: str) -> dict[str, dict[str, Any]]:
    """The rows of the registry.

    Args:
        weights: folder of the models, relative to the YAML file.
    """
    by_name: dict[str, list[Recipe]] = {}
    for recipe in ENCODERS:
        by_name.setdefault(recipe.name, []).append(recipe)
    trained = {name: _row(recipes, weights) for name, recipes in by_name.items()}
    return trained | {"noise-s8": _NOISE}


def _row(recipes: list[Recipe], weights: str) -> dict[str, Any]:
    adapter, model, prefix = _ADAPTERS.get(recipes[0].objective, _TIMM)
    row: dict[str, Any] = {
        "adapter": adapter,
        "licence": "MIT",
        "patch": PATCH,
        "width": WIDTH,
        "prefix_tokens": prefix,
        "mean": list(MEAN),
        "std": list(STD),
    }
    if adapter == "denoiser":
        row["options"] = {"noise_level": NOISE_LEVEL}
    places = {
        recipe.size: ({"model": model} if model else {}) | {"weights": f"{weights}/{recipe.folder}"}
        for recipe in recipes
    }
    if len(places) > 1:
        return row | {"checkpoints": places}
    return row | {"native_size": recipes[0].size} | places[recipes[0].size]


def write_rows(path: Path, weights: str) -> None:
    """Write the registry's file.

    Args:
        path: the YAML file.
        weights: folder of the models, relative to it.
    """
    lines = [
        f"{name}:\n" + textwrap.indent(yaml.safe_dump(row, sort_keys=False, default_flow_style=None, width=200), "  ")
        for name, row in rows(weights).items()
    ]
    path.write_text(_HEAD + "\n".join(lines), encoding="utf-8")
