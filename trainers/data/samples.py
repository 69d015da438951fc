"""Samples to train on, as a manifest's index has them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.data.index import Dropped, Source, build_index, problems
from trainers.data.manifest import Manifest
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID, Tokenizer, Tokens
from trainers.encoders.images import open_image
from trainers.encoders.videos import FRAMES, read_frames
from trainers.errors import DataError
from trainers.utils.progress import Reporter, silent


@dataclass(frozen=True)
class Samples:
    """The samples of an index, by number. Its arrays are mapped into memory, so many processes may open it.

    Attributes:
        folder: the index.
        source: what it was made from.
        frames: how many frames of a video are shown, or all of them where it has no more.
    """

    folder: Path
    source: Source
    frames: int = FRAMES

    def __len__(self) -> int:
        return len(self.lengths)

    def _array(self, column: str) -> np.ndarray:
        """One column, mapped into memory once."""
        arrays: dict[str, np.ndarray] = self.__dict__.setdefault("_arrays", {})
        if column not in arrays:
            arrays[column] = np.load(self.folder / f"{column}.npy", mmap_mode="r")
        return arrays[column]

    def _part(self, column: str, begins: str, index: int) -> np.ndarray:
        begin, end = self._array(begins)[index : index + 2]
        return np.asarray(self._array(column)[begin:end])

    @property
    def lengths(self) -> np.ndarray:
        """(N,) characters of each conversation: a length that is the same for every tokenizer and candidate."""
        return self._array("characters")

    @cached_property
    def with_image(self) -> np.ndarray:
        """(N,) bool: which samples show an image."""
        return np.diff(self._array("images_at")) > 0

    @cached_property
    def sizes(self) -> np.ndarray:
        """(M, 3) width and height in pixels of each image of the samples, and how many frames of it are shown."""
        sizes = np.array(self._array("sizes"))
        sizes[:, 2] = np.clip(sizes[:, 2], 1, self.frames)
        return sizes

    @property
    def frames_key(self) -> str:
        """What features of the images depend on beside the images; empty where there is no video."""
        return f"-{self.frames}f" if self._array("sizes")[:, 2].any() else ""

    def per_image(self, number: Callable[[int, int, int], int]) -> np.ndarray:
        """(M,) a number for each image, which depends on width, height and frames alone."""
        distinct, which = np.unique(self.sizes, axis=0, return_inverse=True)
        return np.array([number(*size) for size in distinct.tolist()], dtype=np.int64)[which.reshape(-1)]

    def per_sample(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) the sums over each sample's images of (M,) numbers."""
        return np.diff(np.concatenate([[0], np.cumsum(numbers)])[self._array("images_at")])

    def images_of(self, index: int) -> range:
        """Which of the M images are a sample's."""
        begin, end = self._array("images_at")[index : index + 2].tolist()
        return range(begin, end)

    @property
    def rows(self) -> int:
        """Rows of the manifest, with those that are left out."""
        return len(self) + len(self.dropped)

    @property
    def text_tokens(self) -> int:
        """Tokens of all samples, without those of images."""
        return len(self._array("input_ids")) - len(self._array("places"))

    @property
    def supervised_tokens(self) -> int:
        """Tokens of all samples that are learnt."""
        return int(np.count_nonzero(self._array("learnt")))

    @cached_property
    def dropped(self) -> list[Dropped]:
        """The rows of the manifest that cannot be trained on."""
        return [Dropped(**one) for one in json.loads((self.folder / "dropped.json").read_text())]

    @cached_property
    def images_digest(self) -> str:
        """Stands for the images of all samples, in their order, whatever is said about them."""
        return hashlib.sha256(self._array("images").tobytes()).hexdigest()

    def name(self, index: int) -> str:
        """How errors name a sample."""
        return self._part("names", "names_at", index).tobytes().decode(errors="replace")

    def image(self, index: int) -> Image.Image | None:
        """A sample's first image in RGB, or the first frame of its first video; None where it shows none.

        Raises:
            DataError: the image is missing or cannot be decoded; the message names the sample.
        """
        return next((visual[0] for visual in self.visuals(index, 1)), None)

    def visuals(self, index: int, count: int | None = None) -> list[tuple[Image.Image, ...]]:
        """A sample's images in RGB, each alone in its tuple, and the frames of its videos.

        Args:
            index: of the sample.
            count: how many of them, from the first; all by default.

        Raises:
            DataError: one is missing or cannot be decoded; the message names the sample.
        """
        images = self.images_of(index)[:count]
        files = [os.fsdecode(self._part("files", "files_at", image).tobytes()) for image in images]
        try:
            inside = self._manifest.visuals(int(self._array("rows")[index]), {}) if not all(files) else []
            given = [Path(file) if file else inside[place].source for place, file in enumerate(files)]
            return [self._open(source, image) for source, image in zip(given, images, strict=True)]
        except DataError as error:
            raise DataError(f"{self.source.manifest}, sample {self.name(index)}: {error}") from error

    def _open(self, source: bytes | Path, image: int) -> tuple[Image.Image, ...]:
        frames = int(self._array("sizes")[image, 2])
        return read_frames(source, self.frames, frames) if frames else (open_image(source),)

    @cached_property
    def _manifest(self) -> Manifest:
        return self.source.open()

    def idle(self, image_tokens: np.ndarray | int, longest: int) -> int:
        """How many samples have no supervised token within so many positions, so that nothing is learnt from them.

        Args:
            image_tokens: (M,) positions that each image takes, or those of all alike.
            longest: positions after which a sample is cut.
        """
        reply = self._array("reply_at")
        owner = np.repeat(np.arange(len(self)), np.diff(self._array("images_at")))
        before = self._array("places") < reply[owner]
        return int(np.count_nonzero(reply + self.per_sample(before * (image_tokens - 1)) >= longest))

    def positions(self, image_tokens: np.ndarray | int, longest: int) -> np.ndarray:
        """(N,) positions that each sample takes with its images, at most.

        Args:
            image_tokens: (M,) positions that each image takes, or those of all alike.
            longest: positions after which a sample is cut.
        """
        images = self.per_sample(np.broadcast_to(image_tokens, len(self._array("places"))) - 1)
        positions: np.ndarray = np.minimum(np.diff(self._array("tokens_at")) + images, longest)
        return positions

    def tokens(self, index: int, image_tokens: np.ndarray | int, longest: int) -> Tokens:
        """A sample as the model sees it, cut where it is too long. An image that does not fit is not shown at all.

        Args:
            index: of the sample.
            image_tokens: positions that each of its images takes in the end; here it is a single IMAGE_ID.
            longest: positions after which the sample is cut.
        """
        input_ids = self._part("input_ids", "tokens_at", index).astype(np.int64)
        labels = np.where(self._part("learnt", "tokens_at", index), input_ids, IGNORE_INDEX)
        positions = np.ones(len(input_ids), dtype=np.int64)
        positions[input_ids == IMAGE_ID] = image_tokens
        room = int(np.searchsorted(np.cumsum(positions), longest, side="right"))
        return Tokens(input_ids[:room], labels[:room])


def read_samples(
    manifest: Path,
    images: Path | None,
    *,
    template: str,
    tokenizer: Tokenizer,
    folder: Path,
    drop: float | None = None,
    frames: int = FRAMES,
    report: Reporter = silent,
) -> Samples:
    """The samples of a manifest, with its index made where it has none yet.

    Args:
        manifest: a .json or .parquet file.
        images: the folder of its image files; the manifest's own folder where it is not given.
        template: the conversation template.
        tokenizer: the language model's.
        folder: where indices are kept.
        drop: the largest share of rows that may be left out because they cannot be trained on; None refuses any.
        frames: how many frames of a video are shown.
        report: is told how far the index is.

    Raises:
        DataError: the manifest cannot be read, or has rows that cannot be trained on; the message lists the first ones.
    """
    source = Source(manifest, images, template, tokenizer)
    samples = Samples(build_index(source, folder, report), source, frames)
    if len(samples.dropped) > (drop or 0.0) * samples.rows:
        hint = "" if drop is None else f"; max_dropped allows {drop:.1%}"
        raise DataError(problems(samples.dropped, len(samples), manifest) + hint)
    return samples
