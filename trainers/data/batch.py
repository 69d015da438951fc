"""A batch as the multimodal model takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right. Of n images in B samples, in the samples' order:

    input_ids, labels, attention_mask: (B, T); an image is `connector.tokens` times IMAGE_ID.
    seeds: (n,) of the images.
    views: per encoder (n, 3, S, S) uint8, or features: per encoder (n, h, w, C), as far as the encoders are frozen.
    """

    names: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    seeds: Tensor
    views: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Batch:
        def move(one: Tensor) -> Tensor:
            return one.to(device, non_blocking=True)

        return replace(
            self,
            input_ids=move(self.input_ids),
            labels=move(self.labels),
            attention_mask=move(self.attention_mask),
            seeds=move(self.seeds),
            views=tuple(map(move, self.views)),
            features=tuple(map(move, self.features)),
        )
