"""From a schedule's indices to batches: tokenised, padded, with their images or cached features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trainers.contracts import Seen
from trainers.data.batch import Batch
from trainers.data.feature_cache import FeatureCache
from trainers.data.packing import MakesBatches
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.encoders.joined import VisionRepresentation


@dataclass(frozen=True)
class Batcher:
    """Makes batches of samples.

    Attributes:
        samples: what they are taken from.
        vision: says what the encoders are shown of an image.
        image_tokens: (M,) positions that each image of the samples takes.
        longest: positions after which a sample is cut.
        pad_id: the token id of padding.
        cache: the images' features; None where the model encodes the images.
    """

    samples: Samples
    vision: VisionRepresentation
    image_tokens: np.ndarray
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
        own = [self.samples.images_of(row) for row in rows]
        coded = [
            self.samples.tokens(row, self._positions(images), self.longest)
            for row, images in zip(rows, own, strict=True)
        ]
        shown = [
            images[: int((one.input_ids == IMAGE_ID).sum())] for images, one in zip(own, coded, strict=True)
        ]  # of a sample that is cut, the first ones
        expanded = [
            expand(one.input_ids, one.labels, self._positions(images)) for one, images in zip(coded, shown, strict=True)
        ]
        width = max(len(input_ids) for input_ids, _, _ in expanded)
        input_ids = torch.full((len(rows), width), self.pad_id)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
        places = torch.full((len(rows), width), -1)
        before = 0  # images of earlier samples
        for row, (own_ids, own_labels, own_places) in enumerate(expanded):
            length = len(own_ids)
            input_ids[row, :length] = torch.from_numpy(own_ids)
            attention_mask[row, :length] = 1
            places[row, :length] = torch.from_numpy(np.where(own_places < 0, -1, own_places + before))
            before += len(shown[row])
            if counts:
                labels[row, :length] = torch.from_numpy(own_labels)
        names = tuple(map(self.samples.name, rows))
        return Batch(names, input_ids, labels, attention_mask, places, self._seen(rows, shown))

    def _positions(self, images: range) -> np.ndarray:
        return self.image_tokens[images.start : images.stop]

    def _seen(self, rows: list[int], shown: list[range]) -> Seen | None:
        if not any(shown):
            return None
        if self.cache is not None:
            return self.cache([image for images in shown for image in images])
        pairs = zip(rows, shown, strict=True)
        return self.vision.look([visual for row, own in pairs for visual in self.samples.visuals(row, len(own))])


def expand(
    input_ids: np.ndarray, labels: np.ndarray, image_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let each IMAGE_ID become as many positions as its image takes.

    Args:
        input_ids: (T,) with IMAGE_ID for each image.
        labels: (T,).
        image_tokens: positions of each of the images.

    Returns:
        The ids and labels of all positions, and which image each shows, or -1.
    """
    times = np.ones(len(input_ids), dtype=np.int64)
    images = np.full(len(input_ids), -1)
    marks = input_ids == IMAGE_ID
    times[marks], images[marks] = image_tokens, np.arange(len(image_tokens))
    return np.repeat(input_ids, times), np.repeat(labels, times), np.repeat(images, times)


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
