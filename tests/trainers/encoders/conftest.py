"""Fixtures of the tests of the encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from support.tiny_encoders import FAMILIES, SHAPE, shuffle_weights, write_open_clip, write_timm
from trainers.encoders.transformers_ import TOWERS


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """One folder for each family of transformers; "clip" a whole CLIP; "timm" and "open_clip" the same tower again."""
    root = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, (_, values) in FAMILIES.items():
            config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **values})
            shuffle_weights(getattr(transformers, TOWERS[kind].model)(config)).save_pretrained(root / kind)
        vision = json.loads((root / "clip_vision_model" / "config.json").read_text())
        text = {**SHAPE, "vocab_size": 8, "max_position_embeddings": 4, "eos_token_id": 7}
        clip = shuffle_weights(
            transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        )
        clip.save_pretrained(root / "clip")
        write_open_clip(clip, root / "open_clip")
        write_timm(root / "open_clip" / "open_clip_model.safetensors", root / "timm")
    return root
