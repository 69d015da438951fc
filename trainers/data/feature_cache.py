"""Cached features of frozen encoders: extracted once for a set of images, whoever trains on them.

A file holds one encoder's maps of the views of samples' images, named by what they depend on: the encoder's fingerprint
(weights, size, layer), the images' contents, and how images are framed. Maps are kept unjoined, so a combination costs
nothing that its parts have not cost already. Where all are of one size the file has the shape (views, height, width,
channels), else (cells of all views, channels).
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
from trainers.contracts import Features, Layout, Seen
from trainers.data.samples import Samples
from trainers.encoders.joined import VisionRepresentation, encode_views, runs, view_seeds
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

    Called with numbers of images, it gives what was seen of them, in float32.

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
        images, frames = self.samples.images_digest[:24], self.samples.frames_key
        name = f"{encoder.fingerprint[:24]}-{images}-{self.vision.cache_key(part)}{frames}"
        return self.folder / f"{name}{'-bf16' if half else ''}.npy"

    def _layout(self, image: int) -> Layout:
        return self.vision.framing.layout(*self.samples.sizes[image].tolist())

    @cached_property
    def _begins(self) -> np.ndarray:
        """(M + 1,) where each image's rows begin: its views, or their cells where these are of several sizes."""

        def rows(width: int, height: int, frames: int) -> int:
            layout = self.vision.framing.layout(width, height, frames)
            return layout.views * (layout.grid[0] * layout.grid[1] if layout.grid else 1)

        return np.concatenate([[0], np.cumsum(self.samples.per_image(rows))])

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
        cells = () if self.vision.framing.any_shape else encoder.grid
        shape = (int(self._begins[-1]), *cells, encoder.width)
        with atomic_write(partial) as fresh:
            np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape).flush()

    def _extract(self, part: int, team: Team, batch_size: int, progress: CountCallback | None) -> None:
        """Encode this process's share of the images: every `team.size`-th batch."""
        encoder = self.vision.encoders[part]
        samples = np.flatnonzero(self.samples.with_image).tolist()
        device = next(iter(encoder.parameters()), torch.empty(0)).device
        maps = np.load(self._partial(part), mmap_mode="r+")
        starts = range(team.rank * batch_size, len(samples), team.size * batch_size)
        done, mine = 0, sum(len(samples[start : start + batch_size]) for start in starts)
        for start in starts:
            rows = samples[start : start + batch_size]
            visuals = [visual for sample in rows for visual in self.samples.visuals(sample)]
            images = range(self.samples.images_of(rows[0]).start, self.samples.images_of(rows[-1]).stop)
            layouts = [self._layout(image) for image in images]
            pairs = [*zip(visuals, layouts, strict=True)]
            views = runs([self.vision.part_views(part, *pair).to(device) for pair in pairs])
            seeds = torch.tensor([seed for pair in pairs for seed in view_seeds(*pair)], device=device)
            with torch.inference_mode():
                encoded = encode_views(encoder, views, seeds)
            begin, end = self._begins[images.start], self._begins[images.stop]
            maps[begin:end] = self._flat(encoded).float().cpu().numpy()
            done += len(rows)
            if progress:
                progress(done, mine)
        maps.flush()

    def _flat(self, features: Features) -> Tensor:
        """As the file has them."""
        if self.vision.framing.any_shape:
            return features.values[features.mask]
        return features.maps()

    def __call__(self, images: Sequence[int]) -> Seen:
        """What was seen of images, by their numbers among those of all samples."""
        layouts = tuple(map(self._layout, images))
        views = sum(layout.views for layout in layouts)
        features = tuple(self._features(part, images, layouts) for part in range(len(self.vision.parts)))
        return Seen(layouts, torch.zeros(views, dtype=torch.long), features=features)

    def _features(self, part: int, images: Sequence[int], layouts: Sequence[Layout]) -> Features:
        rows = np.concatenate([np.arange(*self._begins[image : image + 2]) for image in images])
        found = torch.from_numpy(np.asarray(self._maps[part][rows]))
        if not self.vision.framing.any_shape:
            return Features.of_maps(found)
        grids = [layout.grid or self.vision.grid for layout in layouts for _ in range(layout.views)]
        maps = zip(torch.split(found, [height * width for height, width in grids]), grids, strict=True)
        return Features.padded([one.view(*grid, -1) for one, grid in maps])
