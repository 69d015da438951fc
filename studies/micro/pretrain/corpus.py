"""The images that encoders are trained on, rendered once and mapped into memory by every process.

corpus = load_corpus(folder, 16_384, 64)
corpus.images[rows]   # (rows, 3, 64, 64) uint8
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from studies.micro import world
from studies.micro.pretrain.recipes import MEAN, WORLD_SEED
from trainers.framings import pixels
from trainers.framings.square import fit

SIZES = (64, 96)
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Corpus:
    """Images with their captions and labels.

    Attributes:
        images: (N, 3, S, S) uint8, letterboxed.
        captions: of each image.
        labels: (N, sets) int64, in the order of `label_sets`.
    """

    images: np.ndarray
    captions: Sequence[str]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Some of the images: (rows, 3, S, S) float in [0, 1]."""
        return torch.from_numpy(np.asarray(self.images[rows.numpy()])).float() / 255


def label_sets() -> dict[str, int]:
    """How many values each label of the world has, by its name."""
    return {name: len(values) for name, values in world.LABELS.items()}


def views(scene: world.Scene) -> list[np.ndarray]:
    """The image of a scene at every size of `SIZES`: (3, S, S) uint8 each."""
    image = world.draw(scene)
    return [pixels(fit(image, size, fill=MEAN)).numpy() for size in SIZES]


def _render(task: tuple[str, int, int]) -> tuple[list[np.ndarray], list[str], list[list[int]]]:
    """Render one chunk. It is at the top level so that other processes can import it."""
    split, begin, end = task
    scenes = [world.scene(WORLD_SEED, split, index) for index in range(begin, end)]
    drawn = [views(scene) for scene in scenes]
    labels = [[world.labels(scene)[name] for name in world.LABELS] for scene in scenes]
    return [np.stack(of_size) for of_size in zip(*drawn, strict=True)], [world.captions(s) for s in scenes], labels


def render(folder: Path, split: str, count: int, workers: int) -> None:
    """Write the images of a split, unless they are there.

    Args:
        folder: where they are written.
        split: of the scenes.
        count: how many scenes.
        workers: processes that draw.
    """
    done = folder / f"{split}.json"
    if done.exists() and len(json.loads(done.read_text())["captions"]) >= count:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(split, begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            chunks = list(pool.map(_render, tasks))
    else:
        chunks = [_render(task) for task in tasks]
    for place, size in enumerate(SIZES):
        np.save(folder / f"{split}-{size}.npy", np.concatenate([chunk[0][place] for chunk in chunks]))
    captions, labels = ([row for chunk in chunks for row in chunk[part]] for part in (1, 2))
    whole = done.with_suffix(".part")
    whole.write_text(json.dumps({"captions": captions, "labels": labels}))
    os.replace(whole, done)


def load_corpus(folder: Path, split: str, size: int, count: int) -> Corpus:
    """Open the images that `render` wrote.

    Args:
        folder: where they are.
        split: of the scenes.
        size: one of `SIZES`.
        count: how many of the first scenes.
    """
    texts = json.loads((folder / f"{split}.json").read_text())
    images = np.load(folder / f"{split}-{size}.npy", mmap_mode="r")
    return Corpus(images[:count], texts["captions"][:count], torch.tensor(texts["labels"][:count]))
