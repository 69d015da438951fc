"""From a schedule's indices to batches: tokenised, padded, with their images or cached features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trainers.data.batch import Batch
from trainers.data.feature_cache import FeatureCache
from trainers.data.packing import MakesBatches
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.encoders.images import content_seed
from trainers.encoders.joined import VisionRepresentation


@dataclass(frozen=True)
class Batcher:
    """Makes batches of samples.

    Attributes:
        samples: what they are taken from.
        vision: says what the encoders are shown of an image.
        image_tokens: positions that an image takes.
        longest: positions after which a sample is cut.
        pad_id: the token id of padding.
        cache: the images' features; None where the model encodes the images.
    """

    samples: Samples
    vision: VisionRepresentation
    image_tokens: int
    longest: int
    pad_id: int
    cache: FeatureCache | None = None

    def batch(self, samples: Sequence[int]) -> Batch:
        """The batch of these samples.

        Without a sample, as may happen to a process at the end of an epoch, it is a sample without supervised tokens:
        all processes must take part in a step.
        """
        counts = bool(len(samples))
        rows = [int(sample) for sample in samples] or [0]
        coded = [self.samples.tokens(row, self.image_tokens, self.longest) for row in rows]
        expanded = [_expand(one.input_ids, one.labels, self.image_tokens) for one in coded]
        width = max(len(input_ids) for input_ids, _ in expanded)
        input_ids = torch.full((len(rows), width), self.pad_id)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, (own_ids, own_labels) in enumerate(expanded):
            input_ids[place, : len(own_ids)] = torch.from_numpy(own_ids)
            attention_mask[place, : len(own_ids)] = 1
            if counts:
                labels[place, : len(own_labels)] = torch.from_numpy(own_labels)
        shown = [row for row, one in zip(rows, coded, strict=True) if IMAGE_ID in one.input_ids]
        names = tuple(map(self.samples.name, rows))
        return Batch(names, input_ids, labels, attention_mask, **self._images(shown))

    def _images(self, rows: list[int]) -> dict[str, Any]:
        if self.cache is not None:
            features = self.cache(rows)
            return {"seeds": torch.zeros(len(features[0]), dtype=torch.long), "features": features}
        images = [image for image in map(self.samples.image, rows) if image is not None]
        views = zip(*(self.vision.views(image) for image in images), strict=True)
        return {
            "seeds": torch.tensor([content_seed(image) for image in images], dtype=torch.long),
            "views": tuple(torch.stack(part) for part in views),
        }


def _expand(input_ids: np.ndarray, labels: np.ndarray, image_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each IMAGE_ID becomes as many positions as the connector makes tokens."""
    times = np.where(input_ids == IMAGE_ID, image_tokens, 1)
    return np.repeat(input_ids, times), np.repeat(labels, times)


class _Indexed(Dataset[Batch]):
    """Batches by number, so that loader processes can make them."""

    def __init__(self, batcher: MakesBatches, plan: list[np.ndarray]) -> None:
        self.batcher, self.plan = batcher, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        return self.batcher.batch(self.plan[index].tolist())


def load(batcher: MakesBatches, plan: list[np.ndarray], workers: int) -> Iterator[Batch]:
    """Make the batches of a plan, in its order.

    Args:
        batcher: what makes one batch.
        plan: the samples' indices of each batch.
        workers: how many processes make batches ahead; 0 makes each when it is asked for.
    """
    own = torch.Generator()  # the loader draws from it; nothing here is random
    pinned = torch.cuda.is_available()  # so that batches are copied while the GPU computes
    loader = DataLoader(_Indexed(batcher, plan), batch_size=None, num_workers=workers, generator=own, pin_memory=pinned)
    return iter(loader)
