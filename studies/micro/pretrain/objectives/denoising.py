"""A one-step diffusion denoiser: the clean image from a noisy one, without being told how noisy it is.

x_t = sqrt(abar) x + sqrt(1 - abar) e (DDPM, arXiv 2006.11239), and x is predicted. Features are taken later at one
fixed level, as diffusion features are (arXiv 2306.03881).
"""

from __future__ import annotations

import torch
from torch import nn

from studies.micro.pretrain.augment import crop, jitter, normalised
from studies.micro.pretrain.corpus import Corpus
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.objectives.masked import patchify
from studies.micro.pretrain.recipes import PATCH, WIDTH
from studies.micro.pretrain.vit import timm_tower

_ABAR = (0.05, 0.98)  # of the training's noise levels; uniform between


class Denoising(Objective):
    """Predicts the clean image from a noisy one."""

    description = (
        "diffusion denoiser: a linear head on every token (thrown away) predicts the clean patch from "
        "sqrt(abar) x + sqrt(1 - abar) noise, abar uniform between 0.05 and 0.98 and not told to the network"
    )

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(size, corpus)
        self.encoder = timm_tower(size)
        self.head = nn.Linear(WIDTH, 3 * PATCH * PATCH)

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        images = corpus.batch(rows)
        images = normalised(jitter(crop(images, images.shape[-1], (0.7, 1.1), generator), 0.2, generator))
        abar = _ABAR[0] + (_ABAR[1] - _ABAR[0]) * torch.rand(len(images), 1, 1, 1, generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        tokens = self.encoder.forward_features(abar.sqrt() * images + (1 - abar).sqrt() * noise)
        return (self.head(tokens[:, 1:]) - patchify(images)).square().mean()
