"""One-step diffusion features: a denoiser's activations on an image with a little noise added.

The denoiser is a timm ViT trained to predict the noise (or the image) from

    x_t = sqrt(1 - level^2) x + level eps,     eps ~ N(0, 1) seeded by the image's content

where x are the normalised pixels; its features are those of an intermediate layer, as for any other ViT. An encoder's
`options` are noise_level in [0, 1), and those of timm.

Source: DIFT (arXiv 2306.03881), which does so with Stable Diffusion.
"""

from __future__ import annotations

import math

import torch

from trainers.encoders import timm_
from trainers.encoders.base import Encoder, image_noise
from trainers.encoders.spec import EncoderSpec
from trainers.errors import SpaceError

WEIGHTS = timm_.WEIGHTS


def add_noise(images: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
    """Mix images with noise, so that images of unit variance keep it.

    Args:
        images: (batch, 3, size, size) normalised.
        noise: the same shape.
        level: 0 gives the images, 1 the noise.
    """
    return math.sqrt(1 - level**2) * images + level * noise


class DenoiserEncoder(timm_.TimmEncoder):
    """A timm tower that is shown images with noise."""

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        if not images.is_meta:
            noise = image_noise(seeds, tuple(images.shape[1:]), "diffusion").to(images.device)
            images = add_noise(images, noise, self.spec.options["noise_level"])
        return super().features(images, seeds)


def load(spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Build a denoiser; see `trainers.encoders.base.Loader`.

    Raises:
        SpaceError: `noise_level` is missing or not in [0, 1).
    """
    options = dict(spec.options)
    level = options.pop("noise_level", None)
    if not isinstance(level, int | float) or not 0 <= level < 1:
        raise SpaceError(f"the denoiser {spec.name!r} has noise_level {level!r} in its options; it must be in [0, 1)")
    return timm_.load_as(DenoiserEncoder, spec, options, size, layer, device=device, dtype=dtype)
