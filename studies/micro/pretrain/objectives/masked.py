"""A masked autoencoder: three quarters of the patches are hidden, and predicted from the rest.

Source: MAE (arXiv 2111.06377); the loss is on the hidden patches, each normalised by its own mean and deviation.
"""

from __future__ import annotations

import torch
from torch import nn

from studies.micro.pretrain.augment import crop, jitter, normalised
from studies.micro.pretrain.corpus import Corpus
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.recipes import PATCH, WIDTH
from studies.micro.pretrain.vit import timm_tower

_HIDDEN = 0.75
_DECODER_WIDTH, _DECODER_DEPTH, _DECODER_HEADS = 64, 2, 2


class Masked(Objective):
    """Predicts hidden patches from the visible ones."""

    description = (
        "masked autoencoder: the encoder sees a quarter of the patches, and a two-layer decoder (thrown away) draws "
        "the others, each normalised by its own mean and deviation"
    )

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(size, corpus)
        from timm.models.vision_transformer import Block

        self.encoder = timm_tower(size)
        self.narrow = nn.Linear(WIDTH, _DECODER_WIDTH)
        self.hidden = nn.Parameter(torch.randn(1, 1, _DECODER_WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (size // PATCH) ** 2 + 1, _DECODER_WIDTH) * 0.02)
        self.decoder = nn.Sequential(
            *(Block(_DECODER_WIDTH, _DECODER_HEADS, qkv_bias=True) for _ in range(_DECODER_DEPTH)),
            nn.LayerNorm(_DECODER_WIDTH),
            nn.Linear(_DECODER_WIDTH, 3 * PATCH * PATCH),
        )

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        images = corpus.batch(rows)
        images = crop(images, images.shape[-1], (0.5, 1.1), generator, stretch=1.2)
        images = normalised(jitter(images, 0.2, generator))
        vit = self.encoder
        patches = vit.patch_embed(images) + vit.pos_embed[:, 1:]  # (B, N, C)
        count, total, _ = patches.shape
        order = torch.rand(count, total, generator=generator).argsort(dim=1)
        kept = order[:, : round(total * (1 - _HIDDEN))]
        seen = patches.gather(1, kept[..., None].expand(-1, -1, WIDTH))
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(count, -1, -1)
        coded = self.narrow(vit.norm(vit.blocks(torch.cat([cls, seen], dim=1))))
        whole = self.hidden.expand(count, total, -1)
        whole = whole.scatter(1, kept[..., None].expand(-1, -1, _DECODER_WIDTH), coded[:, 1:])
        drawn = self.decoder(torch.cat([coded[:, :1], whole], dim=1) + self.places)[:, 1:]
        wanted = patchify(images)
        wanted = (wanted - wanted.mean(dim=-1, keepdim=True)) / (wanted.var(dim=-1, keepdim=True) + 1e-2).sqrt()
        error = (drawn - wanted).square().mean(dim=-1)  # (B, N)
        unseen = torch.ones(count, total).scatter(1, kept, 0.0)
        return (error * unseen).sum() / unseen.sum()


def patchify(images: torch.Tensor) -> torch.Tensor:
    """Cut images (B, 3, S, S) into patches (B, N, 3 * PATCH * PATCH) in raster order."""
    count, _, size, _ = images.shape
    side = size // PATCH
    cut = images.reshape(count, 3, side, PATCH, side, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, side * side, 3 * PATCH * PATCH)
