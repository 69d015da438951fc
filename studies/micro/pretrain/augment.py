"""Augmentations of batches, whose random numbers all come from the generator that is passed in.

Images are never mirrored: the world tells left from right, and has words to read.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def crop(
    images: torch.Tensor, size: int, scale: tuple[float, float], generator: torch.Generator, stretch: float = 1.0
) -> torch.Tensor:
    """A random window of each image.

    Args:
        images: (B, 3, S, S).
        size: side of the result, in pixels.
        scale: least and greatest share of the image's area; beyond 1 there is a border, which repeats the edge.
        generator: of the random numbers.
        stretch: greatest ratio of the window's sides.

    Returns:
        (B, 3, size, size).
    """
    count = len(images)
    area = _uniform(count, *scale, generator)
    ratio = torch.exp(_uniform(count, -1.0, 1.0, generator) * torch.log(torch.tensor(stretch)))
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = _uniform(count, -1.0, 1.0, generator) * (1 - width).abs()
    theta[:, 1, 2] = _uniform(count, -1.0, 1.0, generator) * (1 - height).abs()
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter(images: torch.Tensor, strength: float, generator: torch.Generator, grey: float = 0.0) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image.

    Args:
        images: (B, 3, S, S) in [0, 1].
        strength: the factors are within 1 ± strength.
        generator: of the random numbers.
        grey: share of the images that lose their colour.
    """
    count = len(images)
    bright, contrast, saturation = (_uniform(count, 1 - strength, 1 + strength, generator) for _ in range(3))
    saturation = torch.where(_uniform(count, 0.0, 1.0, generator) < grey, 0.0, saturation)
    luma = images.mean(dim=1, keepdim=True)
    images = luma + (images - luma) * saturation[:, None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast[:, None, None, None]
    return (images * bright[:, None, None, None]).clamp(0, 1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] as every micro encoder expects them: in [-1, 1], by a mean and deviation of 0.5."""
    return images * 2 - 1


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
