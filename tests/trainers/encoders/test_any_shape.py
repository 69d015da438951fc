"""Encoders that take rectangles: what they see of one is what its proportions say, and a square is what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.tiny_encoders import EVERY, PIXELS, SEEDS, close, make, specs
from trainers.errors import DataError

WIDE = torch.randint(0, 256, (2, 3, 24, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", EVERY)
def test_rectangles(checkpoints: Path, kind: str) -> None:
    given = specs(checkpoints)[kind]
    if given.adapter in ("timm", "denoiser"):
        fixed = make(given)
        given = replace(given, options={**given.options, "dynamic_img_size": True})
        close(make(given).encode(PIXELS, SEEDS), fixed.encode(PIXELS, SEEDS))
    encoder = make(given)
    if not encoder.any_shape:
        with pytest.raises(DataError, match=r"takes \(batch, 3, 32, 32\) uint8 pixels, got \(2, 3, 24, 48\)"):
            encoder.encode(WIDE, SEEDS)
        assert kind in ("open_clip", "aimv2_vision_model")
        return
    found = encoder.encode(WIDE, SEEDS)
    assert found.shape == (2, 3, 6, 32)
    assert not torch.equal(found[:, :, :3], found[:, :, 3:])
    close(encoder.encode(WIDE[1:], SEEDS[1:]), found[1:])
    shown = WIDE.clone()
    shown[:, :, :8, 40:] = 0  # the top right cell
    changed = (encoder.encode(shown, SEEDS) - found).abs().amax(-1)[0]
    assert changed[0, 5] > 1.5 * changed.mean()
    with pytest.raises(DataError, match="uint8 pixels"):
        encoder.encode(WIDE[..., :47], SEEDS)
