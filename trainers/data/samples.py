"""Samples to train on, as a manifest's index has them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.data.index import Dropped, Source, build_index, problems
from trainers.data.manifest import Manifest
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID, Tokenizer, Tokens
from trainers.encoders.images import open_image
from trainers.errors import DataError
from trainers.utils.progress import Reporter, silent


@dataclass(frozen=True)
class Samples:
    """The samples of an index, by number. Its arrays are mapped into memory, so many processes may open it.

    Attributes:
        folder: the index.
        source: what it was made from.
    """

    folder: Path
    source: Source

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
        return np.asarray(self._array("sizes")[:, 0] > 0)

    @property
    def rows(self) -> int:
        """Rows of the manifest, with those that are left out."""
        return len(self) + len(self.dropped)

    @property
    def text_tokens(self) -> int:
        """Tokens of all samples, without those of images."""
        return len(self._array("input_ids")) - int(np.count_nonzero(self.with_image))

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
        return hashlib.sha256(self._array("images")[self.with_image].tobytes()).hexdigest()

    def name(self, index: int) -> str:
        """How errors name a sample."""
        return self._part("names", "names_at", index).tobytes().decode(errors="replace")

    def image(self, index: int) -> Image.Image | None:
        """A sample's image in RGB; None where it shows none.

        Raises:
            DataError: the image is missing or cannot be decoded; the message names the sample.
        """
        if not self.with_image[index]:
            return None
        file = os.fsdecode(self._part("files", "files_at", index).tobytes())
        try:
            if file:
                return open_image(Path(file))
            image = self._manifest.image(int(self._array("rows")[index]), {})
            assert isinstance(image, bytes)
            return open_image(image)
        except DataError as error:
            raise DataError(f"{self.source.manifest}, sample {self.name(index)}: {error}") from error

    @cached_property
    def _manifest(self) -> Manifest:
        return self.source.open()

    def idle(self, image_tokens: int, longest: int) -> int:
        """How many samples have no supervised token within so many positions, so that nothing is learnt from them."""
        image, reply = self._array("image_at"), self._array("reply_at")
        shown = (image >= 0) & (image + image_tokens <= longest)
        room = np.where(shown | (image < 0), longest, np.minimum(image, longest))
        return int(np.count_nonzero(reply + (shown & (image < reply)) * (image_tokens - 1) >= room))

    def positions(self, image_tokens: int, longest: int) -> np.ndarray:
        """(N,) positions that each sample takes with its image, at most."""
        text: np.ndarray = np.diff(self._array("tokens_at"))
        positions: np.ndarray = np.minimum(text + self.with_image * (image_tokens - 1), longest)
        return positions

    def tokens(self, index: int, image_tokens: int, longest: int) -> Tokens:
        """A sample as the model sees it, cut where it is too long. An image that does not fit is not shown at all.

        Args:
            index: of the sample.
            image_tokens: positions that the image takes in the end; here it is a single IMAGE_ID.
            longest: positions after which the sample is cut.
        """
        input_ids = self._part("input_ids", "tokens_at", index).astype(np.int64)
        learnt = self._part("learnt", "tokens_at", index)
        room = longest
        if (places := np.flatnonzero(input_ids == IMAGE_ID)).size:
            place = int(places[0])
            room = longest - image_tokens + 1 if place + image_tokens <= longest else min(place, longest)
        labels = np.where(learnt, input_ids, IGNORE_INDEX)
        return Tokens(input_ids[:room], labels[:room])


def read_samples(
    manifest: Path,
    images: Path | None,
    *,
    template: str,
    tokenizer: Tokenizer,
    folder: Path,
    drop: float | None = None,
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
        report: is told how far the index is.

    Raises:
        DataError: the manifest cannot be read, or has rows that cannot be trained on; the message lists the first ones.
    """
    source = Source(manifest, images, template, tokenizer)
    samples = Samples(build_index(source, folder, report), source)
    if len(samples.dropped) > (drop or 0.0) * samples.rows:
        hint = "" if drop is None else f"; max_dropped allows {drop:.1%}"
        raise DataError(problems(samples.dropped, len(samples), manifest) + hint)
    return samples
