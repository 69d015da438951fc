"""A batch as the multimodal model takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right. Of n images in B samples, in the samples' order:

    ids, labels, mask: (B, T); an image is `connector.tokens` times IMAGE_ID.  seeds: (n,) of the images.
    views: per encoder (n, 3, S, S) uint8, or features: per encoder (n, h, w, C), as far as the encoders are frozen.
    """

    names: tuple[str, ...]
    ids: Tensor
    labels: Tensor
    mask: Tensor
    seeds: Tensor
    views: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Batch:
        def move(one: Tensor) -> Tensor:
            return one.to(device, non_blocking=True)

        return replace(
            self,
            ids=move(self.ids),
            labels=move(self.labels),
            mask=move(self.mask),
            seeds=move(self.seeds),
            views=tuple(map(move, self.views)),
            features=tuple(map(move, self.features)),
        )
