"""The encoders' contract: (batch, 3, size, size) uint8 pixels in, a (batch, height, width, channels) map out.

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
    """What an adapter's `load` is. device "meta" builds the shape alone: no weights are looked for."""

    def __call__(
        self, spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype
    ) -> Encoder: ...


class Encoder(nn.Module):
    """A frozen encoder at one size and layer. Adapters subclass it and give `features`.

    grid: (height, width) of the map.  width: its channels.  patch: pixels of the side of a cell; what is left of the
    image right and below of the last cell is not seen.  layer: counted from the end, -1 the last.
    fingerprint: a sha256 of all that decides the features but the precision: what a cache of features is keyed by.
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
        """layer: counted from the end.  digest: of the weights.  patch, width: where they differ from the spec's."""
        super().__init__()
        self.spec = spec
        self.size = size
        self.layer = layer
        self.patch = patch or spec.patch
        self.grid = (size // self.patch, size // self.patch)
        self.width = width or spec.width
        self.fingerprint = _fingerprint(spec, size, layer, digest)
        for name, value in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def freeze(self, device: torch.device, dtype: torch.dtype | None = None) -> Encoder:
        """Itself, moved and without gradients; an adapter's last step.

        dtype: the tower's precision, or None where it has it already (some keep parts in float32). mean and std stay
        float32.
        """
        for tower in self.children():
            tower.to(dtype=dtype)
        return self.to(device).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stays in eval mode."""
        return super().train(False)

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """(batch, 3, size, size) normalised float32 and (batch,) int64 -> (batch, height, width, channels)."""
        raise NotImplementedError

    def _own_precision(self) -> AbstractContextManager[Any]:
        device = self.mean.device.type
        return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)

    def encode(self, pixels: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """The features of a batch, with a gradient only where weights want one: `freeze` is undone.

        pixels: (batch, 3, size, size) uint8.  seeds: (batch,) int64, each the image's `content_seed`.
        Returns (batch, *grid, width) in the encoder's precision, on its device.
        Raises DataError for pixels of another shape or type.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (3, self.size, self.size):
            raise DataError(
                f"{self.spec.name}@{self.size} takes (batch, 3, {self.size}, {self.size}) uint8 pixels, got "
                f"{tuple(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')}"
            )
        with self._own_precision():
            images = (pixels.to(self.mean.device).float() / 255 - self.mean) / self.std
            features = self.features(images, seeds)
        expected = (len(pixels), *self.grid, self.width)
        if features.shape != expected:
            raise SpaceError(
                f"{self.spec.name}@{self.size} was declared to give {expected[1:]} (height, width, channels) but gives "
                f"{tuple(features.shape[1:])}; correct 'patch' and 'width' where it is declared"
            )
        return features


def block_index(spec: EncoderSpec, layer: int, depth: int) -> int:
    """The 0-based block (or stage) whose output is hidden state `layer` of a tower `depth` deep.

    -1 -> depth - 1, -2 -> depth - 2, 1 -> 0.  Raises SpaceError for 0, the embeddings, and outside the tower.
    """
    index = depth + layer if layer < 0 else layer - 1
    if not 0 <= index < depth:
        raise SpaceError(
            f"{spec.name} has no layer {layer}; it has {depth}: -1 (the last) to -{depth}, "
            f"or 1 to {depth} from the first"
        )
    return index


def image_noise(seeds: torch.Tensor, shape: tuple[int, ...], purpose: str) -> torch.Tensor:
    """(batch, *shape) float32 of N(0, 1), on the CPU: row i depends on seeds[i] and the purpose's name alone."""
    rows = []
    for seed in seeds.tolist():
        mixed = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big"))
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def check_prefix(spec: EncoderSpec, found: int) -> None:
    """Raises SpaceError where a tower has another number of prefix tokens than declared."""
    if found != spec.prefix_tokens:
        raise SpaceError(
            f"{spec.name} declares {spec.prefix_tokens} prefix tokens, its tower has {found}; correct 'prefix_tokens' "
            "where it is declared"
        )


def _fingerprint(spec: EncoderSpec, size: int, layer: int, digest: str) -> str:
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
