"""Building a model: repeatable, and told apart by its fingerprint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from support.tiny_models import ALL, changed, parts, weights_of
from trainers.errors import SpaceError, TrainingError
from trainers.model.loading import build_model, load_llm


def test_building_is_repeatable_and_leaves_the_global_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    first = weights_of(build_model(parts(folder, ALL)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert not changed(first, weights_of(build_model(parts(folder, ALL))))
    for name in ("connector.", "vision.", "llm."):
        assert any(weight.startswith(name) for weight in first)


def test_a_language_model_that_cannot_be_had(tmp_path: Path, folder: Path) -> None:
    message = rf"language model {tmp_path}: cannot be loaded: .*; give a hub id"

    def fails() -> None:
        with pytest.raises(TrainingError, match=message) as error:
            load_llm(str(tmp_path))
        assert len(str(error.value).splitlines()) == 1

    fails()
    shutil.copy(folder / "llama" / "config.json", tmp_path)
    fails()
    shutil.copy(folder / "llama" / "model.safetensors", tmp_path)
    fails()


def test_the_fingerprint_names_weights_and_how_they_are_used(folder: Path) -> None:
    model = build_model(parts(folder))
    first = model.fingerprint
    assert build_model(parts(folder)).fingerprint == first
    prints = {first}
    for other in (
        parts(folder, "siglip@32"),
        parts(folder, "clip@32|pool@2"),
        parts(folder, llm="qwen2"),
        parts(folder, template="plain"),
        parts(folder).model_copy(update={"resize": "squash"}),
        parts(folder).model_copy(update={"seed": 1}),
    ):
        prints.add(build_model(other).fingerprint)
    for part in (model.vision, model.connector, model.llm):
        with torch.no_grad():
            list(part.parameters())[-1].view(-1)[-1] += 1e-3
        prints.add(model.fingerprint)
    assert len(prints) == 10


def test_a_connector_that_cannot_take_every_image_is_refused_at_once(folder: Path) -> None:
    """Before any image is seen: what folds squares of cells needs them whole, whatever an image's proportions."""
    with pytest.raises(SpaceError, match=r"'shuffle@2' folds .* a grid of 1 x 1; .* the framing 'native@2'"):
        build_model(parts(folder, "clip@32|native|shuffle@2"))
    build_model(parts(folder, "clip@32|native@2|shuffle@2"))
