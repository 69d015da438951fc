"""Random features, and images with noise on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support.tiny_encoders import PIXELS, SEEDS, make, spec, specs
from trainers.encoders.denoiser import add_noise
from trainers.errors import SpaceError


def test_random_features_belong_to_the_image():
    encoder = make(spec("noise", None))
    features = encoder.encode(PIXELS, SEEDS)
    assert features.shape == (2, 4, 4, 32)
    assert abs(features.mean().item()) < 0.1
    assert features.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(encoder.encode(PIXELS.flip(0), SEEDS.flip(0)), features.flip(0))
    assert torch.equal(encoder.encode(PIXELS[:1], SEEDS[:1]), features[:1])
    other = make(spec("noise", None, options={"seed": 1}))
    assert not torch.equal(other.encode(PIXELS, SEEDS), features)
    assert other.fingerprint != encoder.fingerprint


def test_a_denoiser_sees_a_noisy_image(checkpoints):
    given = specs(checkpoints)["denoiser"]
    noisy = make(given)
    quiet, plain = make(replace(given, options={"noise_level": 0})), make(specs(checkpoints)["timm"])
    assert torch.equal(quiet.encode(PIXELS, SEEDS), plain.encode(PIXELS, SEEDS))
    assert not torch.allclose(noisy.encode(PIXELS, SEEDS), plain.encode(PIXELS, SEEDS), atol=0.1)
    assert not torch.allclose(noisy.encode(PIXELS, SEEDS), noisy.encode(PIXELS, SEEDS + 5), atol=0.1)
    assert len({noisy.fingerprint, quiet.fingerprint, plain.fingerprint}) == 3
    with pytest.raises(SpaceError, match=r"noise_level None in its options; it must be in \[0, 1\)"):
        make(replace(given, options={}))
    normal = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    assert add_noise(normal[0], normal[1], 0.6).std().item() == pytest.approx(1, abs=0.01)
