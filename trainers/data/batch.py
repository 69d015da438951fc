"""A batch as the multimodal model takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainers.contracts import Seen


@dataclass(frozen=True)
class Batch:
    """B samples, padded on the right to T positions, with what is seen of their n images.

    Attributes:
        names: the samples' names, for errors.
        input_ids: (B, T) token ids; an image takes as many positions as its layout has tokens, each IMAGE_ID.
        labels: (B, T) token ids that are learnt, and IGNORE_INDEX elsewhere.
        attention_mask: (B, T) 1 for tokens, 0 for padding.
        places: (B, T) which image a position shows, counted from 0 through the whole batch; -1 for text.
        seen: the images; None where there are none.
        position_ids: (B, T) a token's place in its own sample, where rows hold several; None where they hold one each.
    """

    names: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    places: Tensor
    seen: Seen | None = None
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
            places=change(self.places),
            seen=None if self.seen is None else self.seen.each(change),
            position_ids=None if self.position_ids is None else change(self.position_ids),
        )
