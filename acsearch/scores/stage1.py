"""The captions and images that a stage-1 model is scored on: the same for every candidate, by seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from trainers.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainers.data.batch import Batch
    from trainers.data.manifest import Manifest
    from trainers.model.multimodal import MultimodalModel


def choose(manifest: Manifest, samples: int, seed: int) -> list[int]:
    """That many samples that have an image, or all of them where there are fewer, in a random order by seed.

    Raises DataError when no sample has an image.
    """
    chosen: list[int] = []
    for sample in np.random.default_rng(seed).permutation(len(manifest)).tolist():
        if len(chosen) == samples:
            break
        if manifest.has_image(sample):
            chosen.append(sample)
    if not chosen:
        raise DataError(f"{manifest.path}: no sample with an image, so alignment cannot be measured on it")
    return chosen


def caption_batches(
    model: MultimodalModel, manifest: Manifest, samples: list[int], *, template: str, longest: int, batch_size: int
) -> Iterator[Batch]:
    """The samples as stage 1 shows them to the model. template, longest: as in trainers.job.Stage."""
    from trainers.data.collate import Batcher

    batcher = Batcher(manifest, model.vision, model.tokenizer, template, model.connector.tokens, longest, model.pad_id)
    for start in range(0, len(samples), batch_size):
        yield batcher.batch(samples[start : start + batch_size]).to(model.device)


def images(manifest: Manifest, samples: list[int]) -> list[Image]:
    """The images of samples that have one."""
    return [image for sample in samples if (image := manifest.image(sample)) is not None]
