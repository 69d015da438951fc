"""What an encoder is, as data: which weights, what they expect and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainers.errors import SpaceError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of an encoder.

    Attributes:
        size: side of the images it was trained with, in pixels.
        model: as in `EncoderSpec`.
        weights: as in `EncoderSpec`.
        revision: as in `EncoderSpec`.
    """

    size: int
    model: str | None
    weights: str | None
    revision: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder. Every field is checked against the weights, so what is declared is what comes out.

    Layers are counted as in Hugging Face's hidden_states, which has depth + 1 entries: -1 is the last block's output,
    -2 the one before it, and 1 the first block's, always without the trunk's final norm. Hierarchical networks
    (ConvNeXt, Hiera) count stages instead of blocks, and -1 is the layer to use.

    Attributes:
        name: its name in the registry.
        adapter: the library that builds it, a key of `ADAPTERS`.
        model: the library's name of the architecture (timm), the configuration's model type (transformers), or the
            model's name (open_clip); None where a local folder says it.
        weights: a hub id, or the absolute path of a local folder or safetensors file; None where there are none.
        revision: branch, tag or commit of a hub id; None is the default branch, whose commit the fingerprint records.
        licence: of the weights.
        native_size: side of the images it was trained with, in pixels.
        patch: side of one cell of the grid at the default layer, in pixels.
        width: channels at the default layer.
        prefix_tokens: tokens before those of the patches (CLS, registers), which are dropped.
        mean: of RGB in [0, 1], for normalisation.
        std: of RGB in [0, 1], for normalisation.
        layer: the default layer; -2 is LLaVA's.
        notes: for a reader of the registry.
        options: what else the adapter needs to build the tower; each adapter says which.
        checkpoints: the weights of an encoder that was trained at several sizes. The first is the default, and model,
            weights, revision and native_size repeat it.
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
        """The spec with the checkpoint for a size: the one trained at it, else at the nearest size below, else above.

        At another size than the checkpoint's, its position embedding is resampled.

        Raises:
            SpaceError: the size is smaller than one patch.
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
