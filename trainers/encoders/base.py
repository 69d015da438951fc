"""What every encoder offers: (batch, 3, size, size) uint8 pixels in, a (batch, height, width, channels) map out.

Some take rectangles of any sides too, in whole cells.

An encoder is frozen and deterministic: always in eval mode, without gradients, in its own precision whatever autocast
says, normalising with its own mean and std. What is random about one (a denoiser's noise) comes from seeds of the
images' content, so that a feature is the same wherever in a batch its image stands.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from trainers.encoders.spec import EncoderSpec
from trainers.errors import DataError, SpaceError


class Loader(Protocol):
    """The function `load` of an adapter: it builds an encoder. Device "meta" gives the shape alone, without weights."""

    def __call__(
        self, spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype
    ) -> Encoder: ...


class Encoder(nn.Module):
    """A frozen encoder at one size and layer. An adapter subclasses it and defines `features`.

    Attributes:
        spec: what the encoder is.
        size: side of the square image, in pixels.
        layer: counted from the end; -1 is the last.
        patch: side of a cell of the grid, in pixels. Pixels to the right of and below the last cell are not seen.
        grid: (height, width) of the map of a square image.
        any_shape: whether it takes rectangles too.
        width: channels of the map.
        fingerprint: SHA-256 of everything that decides the features but the precision; caches of features use it.
        mean: (3, 1, 1) of RGB in [0, 1], which is subtracted.
        std: (3, 1, 1), by which pixels are divided.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        spec: EncoderSpec,
        size: int,
        layer: int,
        *,
        digest: str,
        patch: int | None = None,
        width: int | None = None,
    ) -> None:
        """Describe the encoder; the adapter adds its tower.

        Args:
            spec: what the encoder is.
            size: side of the square image, in pixels.
            layer: counted from the end.
            digest: of the weights.
            patch: where it differs from the spec's.
            width: where it differs from the spec's.
        """
        super().__init__()
        self.spec = spec
        self.size = size
        self.layer = layer
        self.patch = patch or spec.patch
        self.grid = self.grid_of(size, size)
        self.any_shape = False
        self.width = width or spec.width
        self.fingerprint = fingerprint_of(spec, size, layer, digest)
        for name, value in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in cells of the map of an image of so many pixels."""
        return height // self.patch, width // self.patch

    def check_any_shape(self, framing: str) -> None:
        """Refuse a framing whose views are rectangles, where the encoder takes squares alone.

        Raises:
            SpaceError: it does.
        """
        if not self.any_shape:
            raise SpaceError(
                f"the framing {framing!r} shows images in their own proportions, and {self.spec.name}@{self.size} "
                "takes squares alone; most towers of transformers take any, and ViTs of timm with the option "
                "{dynamic_img_size: true}"
            )

    def freeze(self, device: torch.device, dtype: torch.dtype | None = None) -> Encoder:
        """Move the encoder to a device and freeze it; an adapter's last step. Returns the encoder itself.

        Args:
            device: where it computes.
            dtype: the tower's precision; None where the tower has it already. `mean` and `std` stay float32.
        """
        for tower in self.children():
            tower.to(dtype=dtype)
        return self.to(device).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """The features of normalised images; what an adapter defines.

        Args:
            images: (batch, 3, height, width) float32.
            seeds: (batch,) int64, the images' content seeds.

        Returns:
            (batch, height, width, channels).
        """
        raise NotImplementedError

    def _takes(self, channels: int, height: int, width: int) -> bool:
        square = height == width == self.size
        return channels == 3 and (square or (self.any_shape and height % self.patch == width % self.patch == 0))

    def _own_precision(self) -> AbstractContextManager[Any]:
        device, tuned = self.mean.device.type, any(weight.requires_grad for weight in self.parameters())
        return nullcontext() if device == "meta" or tuned else torch.autocast(device, enabled=False)

    def encode(self, pixels: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """The features of a batch of images. They carry a gradient only where weights were set to need one.

        Args:
            pixels: (batch, 3, size, size) uint8; of any height and width in whole cells where `any_shape`.
            seeds: (batch,) int64, each the image's `content_seed`.

        Returns:
            (batch, height, width, channels) in the encoder's precision, on its device.

        Raises:
            DataError: the pixels have another shape or type.
        """
        if not (pixels.dtype == torch.uint8 and pixels.ndim == 4 and self._takes(*pixels.shape[1:])):
            raise DataError(
                f"{self.spec.name}@{self.size} takes (batch, 3, {self.size}, {self.size}) uint8 pixels, got "
                f"{tuple(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')}"
            )
        with self._own_precision():
            images = (pixels.to(self.mean.device).float() / 255 - self.mean) / self.std
            features = self.features(images, seeds)
        expected = (len(pixels), *self.grid_of(*pixels.shape[2:]), self.width)
        if features.shape != expected:
            raise SpaceError(
                f"{self.spec.name}@{self.size} was declared to give {expected[1:]} (height, width, channels) but gives "
                f"{tuple(features.shape[1:])}; correct 'patch' and 'width' where it is declared"
            )
        return features


def block_index(spec: EncoderSpec, layer: int, depth: int) -> int:
    """The block (or stage), counted from 0, whose output is a hidden state: -1 -> depth - 1, 1 -> 0.

    Args:
        spec: of the encoder, for the message.
        layer: the hidden state, counted as in `EncoderSpec`.
        depth: how many blocks the tower has.

    Raises:
        SpaceError: the layer is 0, the embeddings, or outside the tower.
    """
    index = depth + layer if layer < 0 else layer - 1
    if not 0 <= index < depth:
        raise SpaceError(
            f"{spec.name} has no layer {layer}; it has {depth}: -1 (the last) to -{depth}, "
            f"or 1 to {depth} from the first"
        )
    return index


def image_noise(seeds: torch.Tensor, shape: tuple[int, ...], purpose: str) -> torch.Tensor:
    """Standard normal noise for images: row i depends on seeds[i] and the purpose's name alone.

    Args:
        seeds: (batch,) the images' content seeds.
        shape: of the noise of one image.
        purpose: what the noise is for, so that two uses differ.

    Returns:
        (batch, *shape) float32, on the CPU.
    """
    rows = []
    for seed in seeds.tolist():
        mixed = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big"))
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def check_prefix(spec: EncoderSpec, found: int) -> None:
    """Compare the number of prefix tokens of a tower with the declared one.

    Raises:
        SpaceError: they differ.
    """
    if found != spec.prefix_tokens:
        raise SpaceError(
            f"{spec.name} declares {spec.prefix_tokens} prefix tokens, its tower has {found}; correct 'prefix_tokens' "
            "where it is declared"
        )


def fingerprint_of(spec: EncoderSpec, size: int, layer: int, digest: str) -> str:
    """The fingerprint of an encoder; see `Encoder`."""
    decisive: dict[str, Any] = {
        "adapter": spec.adapter,
        "model": spec.model,
        "weights": digest,
        "mean": spec.mean,
        "std": spec.std,
        "prefix_tokens": spec.prefix_tokens,
        "patch": spec.patch,
        "width": spec.width,
        "options": dict(spec.options),
        "size": size,
        "layer": layer,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
