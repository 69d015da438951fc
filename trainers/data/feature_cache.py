"""Cached features of frozen encoders: extracted once for a set of images, whoever trains on them.

A file holds one encoder's maps of the images of samples, named by what they depend on: the encoder's fingerprint
(weights, size, layer), the images' contents, and how images are fitted. Maps are kept unjoined, so a combination costs
nothing that its parts have not cost already.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
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

_POLL_SECONDS = 0.2  # between looks for what the first process makes


@dataclass(frozen=True)
class Team:
    """The processes of one machine that work together.

    Attributes:
        rank: this process, counted from 0.
        size: how many they are.
        meet: waits until all of them have called it.
    """

    rank: int
    size: int
    meet: Callable[[], object]

    @property
    def first(self) -> bool:
        """Whether this process does what one must do for all."""
        return self.rank == 0


ALONE = Team(0, 1, lambda: None)


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
        half = any(weight.dtype == torch.bfloat16 for weight in encoder.parameters())
        name = f"{encoder.fingerprint[:24]}-{self.samples.images_digest[:24]}-{self.vision.policy}"
        return self.folder / f"{name}{'-bf16' if half else ''}.npy"

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

    def fill(self, team: Team = ALONE, batch_size: int = 64, progress: CountCallback | None = None) -> None:
        """Download or extract the features that are not here yet. All processes of the team call this.

        Args:
            team: the processes of this machine that extract together.
            batch_size: images that are encoded at a time.
            progress: is called with how many images of an encoder this process has done, of how many.
        """
        for part in range(len(self.vision.parts)):
            target, partial = self.path(part), self._partial(part)
            if team.first:
                partial.unlink(missing_ok=True)
            team.meet()
            if team.first and not target.exists() and not self.store.pull_file(target):
                self._create(part)
            while not (target.exists() or partial.exists()):  # a download may take longer than a collective may
                time.sleep(_POLL_SECONDS)
            if not target.exists():
                self._extract(part, team, batch_size, progress)
                team.meet()
                if team.first:
                    partial.replace(target)
                team.meet()

    def share(self) -> None:
        """Upload the features to the store in the background. One process does it for all."""
        for part in range(len(self.vision.parts)):
            self.store.push_file(self.path(part))

    def _partial(self, part: int) -> Path:
        """Where one machine's processes write before the file is whole."""
        target = self.path(part)
        return target.with_name(f".{target.name}.{socket.gethostname()}.partial")

    def _create(self, part: int) -> None:
        """An empty file for all maps, under a temporary name until it has its size."""
        encoder, partial = self.vision.encoders[part], self._partial(part)
        shape = (len(self._row), *encoder.grid, encoder.width)
        with atomic_write(partial) as fresh:
            np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape).flush()

    def _extract(self, part: int, team: Team, batch_size: int, progress: CountCallback | None) -> None:
        """Encode this process's share of the images: every `team.size`-th batch."""
        encoder, samples = self.vision.encoders[part], list(self._row)
        alone = VisionRepresentation([encoder], Joining(), self.vision.policy)
        device = next(iter(encoder.parameters()), torch.empty(0)).device
        maps = np.load(self._partial(part), mmap_mode="r+")
        starts = range(team.rank * batch_size, len(samples), team.size * batch_size)
        done, mine = 0, sum(len(samples[start : start + batch_size]) for start in starts)
        for start in starts:
            rows = samples[start : start + batch_size]
            images = [self.samples.image(sample) for sample in rows]
            pixels = torch.stack([alone.views(image)[0] for image in images if image is not None])
            seeds = torch.tensor([content_seed(image) for image in images if image is not None])
            with torch.inference_mode():
                encoded = encoder.encode(pixels.to(device), seeds.to(device))
            maps[start : start + len(rows)] = encoded.float().cpu().numpy()
            done += len(rows)
            if progress:
                progress(done, mine)
        maps.flush()

    def __call__(self, samples: Sequence[int]) -> tuple[Tensor, ...]:
        rows = [self._row[sample] for sample in samples]
        return tuple(torch.from_numpy(np.asarray(maps[rows])) for maps in self._maps)
