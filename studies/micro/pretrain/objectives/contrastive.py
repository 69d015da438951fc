"""Contrastive training of an image tower and a text tower: CLIP with a softmax, SigLIP with sigmoids.

Sources: CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from studies.micro.pretrain.augment import crop, jitter, normalised
from studies.micro.pretrain.corpus import Corpus
from studies.micro.pretrain.llm.tokenizer import word_ids
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.recipes import WIDTH
from studies.micro.pretrain.vit import clip_tower, siglip_tower

_JOINT, _TEXT_WIDTH, _TEXT_DEPTH = 64, 64, 2
_LONGEST = 64


class TextTower(nn.Module):
    """Two transformer layers and the mean over the words of a caption."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, _TEXT_WIDTH)
        self.places = nn.Parameter(torch.randn(_LONGEST, _TEXT_WIDTH) * 0.02)
        nn.init.normal_(self.words.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            _TEXT_WIDTH, 2, 4 * _TEXT_WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _TEXT_DEPTH, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(_TEXT_WIDTH)
        self.project = nn.Linear(_TEXT_WIDTH, _JOINT, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed captions.

        Args:
            ids: (B, T) word ids, 0 for padding.

        Returns:
            (B, 64).
        """
        there = (ids != 0).float()
        hidden = self.layers(self.words(ids) + self.places[: ids.shape[1]], src_key_padding_mask=ids == 0)
        pooled = (self.norm(hidden) * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True)
        return self.project(pooled)  # type: ignore[no-any-return]


class _Contrastive(Objective):
    """What CLIP and SigLIP share: towers, augmentation and cosine similarities."""

    def __init__(self, encoder: nn.Module, size: int, corpus: Corpus, scale: float) -> None:
        super().__init__(size, corpus)
        words, self._ids = word_ids(_LONGEST)
        self.encoder = encoder
        self.text = TextTower(words)
        self.project = nn.Linear(WIDTH, _JOINT, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(scale)))

    def similarities(self, images: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """(B, B) cosine similarities of each image and each caption."""
        pooled = self.encoder(pixel_values=normalised(images)).pooler_output
        image = F.normalize(self.project(pooled), dim=-1)
        text = F.normalize(self.text(self._ids(captions)), dim=-1)
        return image @ text.T

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        images = corpus.batch(rows)
        images = crop(images, images.shape[-1], (0.85, 1.1), generator)
        captions = [corpus.captions[row] for row in rows.tolist()]
        return self.contrast(self.similarities(jitter(images, 0.2, generator), captions))

    def contrast(self, cosines: torch.Tensor) -> torch.Tensor:
        """The loss of (B, B) cosine similarities."""
        raise NotImplementedError

    @torch.no_grad()
    def measures(self, corpus: Corpus) -> dict[str, float]:
        """Recall@1 of captions among 200 unseen images."""
        count = min(200, len(corpus))
        cosines = self.similarities(corpus.batch(torch.arange(count)), corpus.captions[:count])
        hits = (cosines.argmax(dim=1) == torch.arange(count)).float().mean()
        return {f"caption retrieval, recall@1 among {count}": float(hits)}


class Clip(_Contrastive):
    """CLIP: a softmax over the batch, both ways."""

    description = (
        "CLIP: the image's class token and the mean of a two-layer text tower (thrown away) over its caption find each "
        "other by a softmax over the batch"
    )

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(clip_tower(size), size, corpus, scale=1 / 0.07)

    def contrast(self, cosines: torch.Tensor) -> torch.Tensor:
        logits = cosines * self.scale.exp().clamp(max=100)
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class Siglip(_Contrastive):
    """SigLIP: a sigmoid for every pair of the batch."""

    description = (
        "SigLIP: attention-pooled image tokens and the mean of a two-layer text tower (thrown away) over the caption, "
        "with a sigmoid for every pair of the batch"
    )

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(siglip_tower(size), size, corpus, scale=10.0)
        self.bias = nn.Parameter(torch.tensor(-math.log(100.0)))

    def contrast(self, cosines: torch.Tensor) -> torch.Tensor:
        logits = cosines * self.scale.exp() + self.bias
        signs = 2 * torch.eye(len(logits)) - 1
        return -F.logsigmoid(signs * logits).sum(dim=1).mean()
