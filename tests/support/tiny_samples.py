"""Samples of a manifest, good and bad, and batches of them."""

from __future__ import annotations

import itertools
from typing import Any

from trainers.data.collate import Batcher
from trainers.data.feature_cache import FeatureCache
from trainers.data.manifest import Manifest
from trainers.encoders.joined import VisionRepresentation


def say(*said: str, image: str | None = "0.png", name: str = "bad") -> dict[str, Any]:
    turns = [{"from": role, "value": text} for role, text in zip(itertools.cycle(["human", "gpt"]), said, strict=False)]
    return {"id": name, "conversations": turns} | ({"image": image} if image is not None else {})


def batcher(manifest: Manifest, vision: VisionRepresentation, words: Any, cache: FeatureCache | None = None) -> Batcher:
    return Batcher(manifest, vision, words, "chat", image_tokens=16, longest=200, pad_id=0, cache=cache)
