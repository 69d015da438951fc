"""What every objective offers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from studies.micro.pretrain.corpus import Corpus


class Objective(nn.Module):
    """An encoder, and what is needed only to train it.

    Attributes:
        encoder: what is stored.
        description: one sentence for its card.
    """

    description: ClassVar[str]
    encoder: Any

    def __init__(self, size: int, corpus: Corpus) -> None:
        """Initialise all weights from the global generator, which the caller has seeded.

        Args:
            size: of the encoder's images, in pixels.
            corpus: what it is trained on.
        """
        super().__init__()

    @staticmethod
    def image_size(size: int) -> int:
        """The size of the images that `loss` needs, by default the encoder's own."""
        return size

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        """The loss of a step, a scalar.

        Args:
            rows: (B,) samples of the corpus.
            corpus: what the encoder is trained on.
            generator: of augmentations, masks and noise.
            progress: share of the training that is done.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """What is to do after each step of the optimizer.

        Args:
            progress: share of the training that is done.
        """

    def measures(self, corpus: Corpus) -> dict[str, float]:
        """Figures for the card that need the whole objective, on scenes that it was not trained on."""
        return {}
