"""Supervised classification of the world's labels; and no training at all, the control."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from studies.micro.pretrain.augment import crop, jitter, normalised
from studies.micro.pretrain.corpus import Corpus, label_sets
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.recipes import WIDTH
from studies.micro.pretrain.vit import timm_tower


class Supervised(Objective):
    """Classifies the world's labels."""

    description = "supervised: linear heads on the class token (thrown away) name the world's labels: {labels}"

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(size, corpus)
        self.encoder = timm_tower(size)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in label_sets().values())

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        images = corpus.batch(rows)
        images = normalised(jitter(crop(images, images.shape[-1], (0.85, 1.1), generator), 0.2, generator))
        cls = self.encoder.forward_features(images)[:, 0]
        labels = corpus.labels[rows]
        losses = [F.cross_entropy(head(cls), labels[:, place]) for place, head in enumerate(self.heads)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def measures(self, corpus: Corpus) -> dict[str, float]:
        """Mean accuracy of the heads on 1000 unseen images."""
        count = min(1000, len(corpus))
        cls = self.encoder.forward_features(normalised(corpus.batch(torch.arange(count))))[:, 0]
        right = [
            (head(cls).argmax(dim=1) == corpus.labels[:count, place]).float().mean()
            for place, head in enumerate(self.heads)
        ]
        return {"mean accuracy of its own heads": float(torch.stack(right).mean())}


class Untrained(Objective):
    """No training, as a control."""

    description = "untrained: as it was initialised"

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(size, corpus)
        self.encoder = timm_tower(size)
