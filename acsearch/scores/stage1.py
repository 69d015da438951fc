"""The captions and images that stage-1 models are scored on; by their seed, the same for every candidate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from trainers.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainers.data.batch import Batch
    from trainers.data.samples import Samples
    from trainers.model.multimodal import MultimodalModel
    from trainers.ranks.group import Group


def choose(samples: Samples, count: int, seed: int) -> list[int]:
    """Choose random samples that show an image.

    Args:
        samples: What to choose from.
        count: Number of samples; where fewer show an image, all of those are taken.
        seed: Seed of the choice and its order.

    Returns:
        Indices of the samples.

    Raises:
        DataError: no sample shows an image.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen: list[int] = order[samples.with_image[order]][:count].tolist()
    if not chosen:
        raise DataError(f"{samples.source.manifest}: no sample with an image, so alignment cannot be measured on it")
    return chosen


def caption_batches(
    model: MultimodalModel,
    samples: Samples,
    chosen: list[int],
    *,
    longest: int,
    batch_size: int,
    group: Group | None = None,
) -> Iterator[Batch]:
    """Batch samples as in the training of stage 1.

    Args:
        model: The stage-1 model.
        samples: Where they are from.
        chosen: Indices of the samples.
        longest: As in `trainers.job.Stage`.
        batch_size: Samples of a batch.
        group: The ranks that share the batches; default: all are ours.

    Yields:
        Batches on the device of the model.
    """
    batcher = model.batcher(samples, longest)
    starts = range(0, len(chosen), batch_size)
    for start in group.share(starts) if group else starts:
        yield batcher.batch(chosen[start : start + batch_size]).to(model.device)


def images(samples: Samples, chosen: list[int]) -> list[Image]:
    """The images of those samples that show one."""
    return [image for sample in chosen if (image := samples.image(sample)) is not None]
