"""A batch as the multimodal model takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B samples, padded on the right to T positions, with their n images in the samples' order.

    Attributes:
        names: the samples' names, for errors.
        input_ids: (B, T) token ids; an image takes as many positions as the connector makes tokens, each IMAGE_ID.
        labels: (B, T) token ids that are learnt, and IGNORE_INDEX elsewhere.
        attention_mask: (B, T) 1 for tokens, 0 for padding.
        seeds: (n,) the content seeds of the images.
        views: (n, 3, size, size) uint8 of each encoder; empty where there are features.
        features: (n, height, width, channels) of each encoder, from a cache.
        position_ids: (B, T) a token's place in its own sample, where rows hold several; None where they hold one each.
    """

    names: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    seeds: Tensor
    views: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    position_ids: Tensor | None = None

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from by itself; the loader calls it."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda one: one.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            input_ids=change(self.input_ids),
            labels=change(self.labels),
            attention_mask=change(self.attention_mask),
            seeds=change(self.seeds),
            views=tuple(map(change, self.views)),
            features=tuple(map(change, self.features)),
            position_ids=None if self.position_ids is None else change(self.position_ids),
        )
