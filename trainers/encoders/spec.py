"""What an encoder is, as data: which weights, what they expect and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainers.errors import SpaceError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of an encoder: trained at `size` pixels; the rest as in `EncoderSpec`."""

    size: int
    model: str | None
    weights: str | None
    revision: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder. Every field can be checked against the weights, and is: what is declared is what comes out.

    adapter: the library that builds it, a key of `ADAPTERS`.  model: the library's name of the architecture (timm), the
    configuration's model type (transformers), the model's name (open_clip); None where a local folder says it.
    weights: a hub id, or an absolute path of a local folder or safetensors file; None where there are none (noise).
    revision: of a hub id, a branch, tag or commit; None is the default branch, whose commit the fingerprint records.
    native_size: pixels of the side the weights were trained at.  patch: pixels of the side of one cell of the grid.
    width: channels.  prefix_tokens: tokens before the patches' (CLS, registers), which are dropped.
    mean, std: of RGB in [0, 1].

    layer: counted as in Hugging Face's hidden_states, which has depth + 1 entries: -1 is the last block's output, -2
    the one before it, always without the trunk's final norm; 1 is the first block's output.  The default, -2, is
    LLaVA's.  For hierarchical networks (ConvNeXt, Hiera) it counts stages instead of blocks, and -1 is the one to use.
    patch and width are those of this default layer.

    options: what else the adapter needs to build the tower; each adapter says which.
    checkpoints: of one encoder that was trained at several sizes; the first is the default (model, weights, revision
    and native_size repeat it).
    """

    name: str
    adapter: str
    model: str | None
    weights: str | None
    revision: str | None
    licence: str
    native_size: int
    patch: int
    width: int
    prefix_tokens: int
    mean: Triple
    std: Triple
    layer: int = -2
    notes: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    checkpoints: tuple[Checkpoint, ...] = ()

    def at(self, size: int) -> EncoderSpec:
        """The spec with the checkpoint for `size`: the one trained at it, else at the nearest size below, else above.

        Other sizes than the checkpoint's resample its position embedding.
        """
        if size < self.patch:
            raise SpaceError(f"{self.name}@{size} is smaller than one patch of {self.name}, {self.patch} pixels")
        if not self.checkpoints:
            return self
        below = [checkpoint for checkpoint in self.checkpoints if checkpoint.size <= size]
        chosen = (
            max(below, key=lambda checkpoint: checkpoint.size)
            if below
            else min(self.checkpoints, key=lambda checkpoint: checkpoint.size)
        )
        return replace(
            self, model=chosen.model, weights=chosen.weights, revision=chosen.revision, native_size=chosen.size
        )
