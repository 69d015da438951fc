"""The captions and images that stage-1 models are scored on; by their seed, the same for every candidate."""

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
    """Choose random samples that have an image.

    Args:
        manifest: The manifest.
        samples: Number of samples; where fewer have an image, all of those are taken.
        seed: Seed of the choice and its order.

    Returns:
        Indices of the samples in the manifest.

    Raises:
        DataError: no sample has an image.
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
    """Batch samples as in the training of stage 1.

    Args:
        model: The stage-1 model.
        manifest: The manifest.
        samples: Indices of the samples.
        template: As in `trainers.job.Stage`.
        longest: As in `trainers.job.Stage`.
        batch_size: Samples of a batch.

    Yields:
        Batches on the device of the model.
    """
    from trainers.data.collate import Batcher

    batcher = Batcher(manifest, model.vision, model.tokenizer, template, model.connector.tokens, longest, model.pad_id)
    for start in range(0, len(samples), batch_size):
        yield batcher.batch(samples[start : start + batch_size]).to(model.device)


def images(manifest: Manifest, samples: list[int]) -> list[Image]:
    """The images of those samples that have one."""
    return [image for sample in samples if (image := manifest.image(sample)) is not None]
