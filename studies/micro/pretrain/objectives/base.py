"""The contract of the objectives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from studies.micro.pretrain.corpus import Corpus


class Objective(nn.Module):
    """An encoder, and what is needed only to train it.

    encoder: what is stored.  story: one sentence for its card.  view: which size of the images `loss` wants, by default
    the encoder's own.  Made as `Objective(size, corpus)`, with the global generator seeded by the caller.
    """

    story: ClassVar[str]
    encoder: Any

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__()

    @staticmethod
    def view(size: int) -> int:
        return size

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        """Scalar. rows: (B,) samples of the corpus.  progress: share of the training that is done."""
        raise NotImplementedError

    def after(self, progress: float) -> None:
        """Called when the optimiser has stepped."""

    def measures(self, corpus: Corpus) -> dict[str, float]:
        """What only the whole objective can measure, on scenes it has not seen, for the card."""
        return {}
