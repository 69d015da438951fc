"""Cached features of frozen encoders: extracted once for a set of images, whoever trains on them.

A file holds one encoder's maps of the images of samples, named by what they depend on: the encoder's fingerprint
(weights, size, layer), the images' contents, and how images are fitted. Maps are kept unjoined, so a combination costs
nothing that its parts have not cost already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainers.checkpoints.work_store import Store
from trainers.data.samples import Samples
from trainers.encoders.images import content_seed
from trainers.encoders.joined import VisionRepresentation
from trainers.representation import Joining
from trainers.utils.atomic import atomic_write
from trainers.utils.progress import CountCallback


@dataclass(frozen=True)
class FeatureCache:
    """Features of the images of samples.

    Called with indices of samples, it gives (n, height, width, channels) float32 of each encoder, for those samples
    that have an image, in their order.

    Attributes:
        folder: where the files are.
        vision: the encoders.
        samples: those whose images are encoded.
        store: the work store that shares the files.
    """

    folder: Path
    vision: VisionRepresentation
    samples: Samples
    store: Store = field(default_factory=Store)

    def path(self, part: int) -> Path:
        """The file of one encoder's features."""
        encoder = self.vision.encoders[part]
        name = f"{encoder.fingerprint[:24]}-{self.samples.images_digest[:24]}-{self.vision.policy}.npy"
        return self.folder / name

    @cached_property
    def _row(self) -> dict[int, int]:
        """Row of each sample that has an image."""
        return {sample: row for row, sample in enumerate(np.flatnonzero(self.samples.with_image).tolist())}

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        return [np.load(self.path(part), mmap_mode="r") for part in range(len(self.vision.parts))]

    @property
    def full(self) -> bool:
        """Whether the features of every encoder are here."""
        return all(self.path(part).exists() for part in range(len(self.vision.parts)))

    def fill(self, batch_size: int = 64, progress: CountCallback | None = None) -> None:
        """Download or extract the features that are not here yet.

        Args:
            batch_size: images that are encoded at a time.
            progress: is called with how many images of an encoder are done.
        """
        for part in range(len(self.vision.parts)):
            if not self.path(part).exists() and not self.store.pull_file(self.path(part)):
                self._extract(part, batch_size, progress)

    def share(self) -> None:
        """Upload the features to the store in the background. One process does it for all."""
        for part in range(len(self.vision.parts)):
            self.store.push_file(self.path(part))

    def _extract(self, part: int, batch_size: int, progress: CountCallback | None) -> None:
        encoder, target, samples = self.vision.encoders[part], self.path(part), list(self._row)
        alone = VisionRepresentation([encoder], Joining(), self.vision.policy)
        shape = (len(samples), *encoder.grid, encoder.width)
        device = next(iter(encoder.parameters()), torch.empty(0)).device
        with atomic_write(target) as fresh:
            maps = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape)
            for start in range(0, len(samples), batch_size):
                rows = samples[start : start + batch_size]
                images = [self.samples.image(sample) for sample in rows]
                pixels = torch.stack([alone.views(image)[0] for image in images if image is not None])
                seeds = torch.tensor([content_seed(image) for image in images if image is not None])
                with torch.inference_mode():
                    encoded = encoder.encode(pixels.to(device), seeds.to(device))
                maps[start : start + len(rows)] = encoded.float().cpu().numpy()
                if progress:
                    progress(start + len(rows), len(samples))
            maps.flush()
            del maps

    def __call__(self, samples: Sequence[int]) -> tuple[Tensor, ...]:
        rows = [self._row[sample] for sample in samples]
        return tuple(torch.from_numpy(np.asarray(maps[rows])) for maps in self._maps)
