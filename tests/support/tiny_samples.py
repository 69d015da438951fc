"""Samples of a manifest, good and bad, and batches of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from trainers.data.collate import Batcher
from trainers.data.feature_cache import FeatureCache
from trainers.data.samples import Samples, read_samples
from trainers.encoders.joined import VisionRepresentation


def say(*said: str, image: str | None = "0.png", name: str = "bad") -> dict[str, Any]:
    turns = [{"from": role, "value": text} for role, text in zip(itertools.cycle(["human", "gpt"]), said, strict=False)]
    return {"id": name, "conversations": turns} | ({"image": image} if image is not None else {})


def samples(manifest: Path, words: Any, template: str = "chat", **options: Any) -> Samples:
    """Its index is beside the manifest."""
    return read_samples(manifest, None, template=template, tokenizer=words, folder=manifest.parent / "index", **options)


def batcher(samples: Samples, vision: VisionRepresentation, cache: FeatureCache | None = None) -> Batcher:
    image_tokens = samples.per_image(lambda width, height, frames: 16)
    return Batcher(samples, vision, image_tokens, longest=200, pad_id=0, cache=cache)
