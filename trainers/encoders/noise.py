"""Random features, as a control: an encoder that is not better than this one shows the language model nothing.

Each image's map is N(0, 1), seeded by the image's content alone, so it identifies the image and says nothing of it.
It has no weights; grid and width are its row's `patch` and `width`. Its option `seed`, an integer, tells several apart.
"""

from __future__ import annotations

import torch

from trainers.encoders.base import Encoder, image_noise
from trainers.encoders.spec import EncoderSpec

WEIGHTS = None


class NoiseEncoder(Encoder):
    """Standard normal features, seeded by the image's content."""

    dtype: torch.dtype

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        purpose = f"random features {self.spec.options.get('seed', 0)}"
        grid = self.grid_of(*images.shape[2:])
        if images.is_meta:
            return images.new_empty(len(images), *grid, self.width)
        return image_noise(seeds, (*grid, self.width), purpose).to(images.device, self.dtype)


def load(spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Build random features; see `trainers.encoders.base.Loader`."""
    encoder = NoiseEncoder(spec, size, -1, digest="no weights")  # it has one layer, whichever is asked for
    encoder.dtype, encoder.any_shape = dtype, True
    return encoder.freeze(device)
