"""The index of a manifest: every row tokenised and every image looked at, once, before any training process starts.

It depends on the manifest, the template and the tokenizer alone, so all candidates of a study share it, and it says the
same for all of them. Processes of training map its arrays into memory: they hold neither the manifest nor a tokenizer.

    index/<key>/             committed as in `trainers.checkpoints.commit`
        input_ids.npy        (T,) int32 token ids of all samples, one sample after the other; an image is one IMAGE_ID
        learnt.npy           (T,) bool: which of them are supervised
        names.npy            the samples' names in UTF-8, one after the other
        files.npy            the same of the images' files; empty where an image is in the manifest
        *_at.npy             (N + 1,) int64 where a sample's part of input_ids and learnt, names, or places, sizes and
                             images begins; (M + 1,) where an image's part of files does
        rows.npy             (N,) int64: its row in the manifest
        characters.npy       (N,) int64: length of its conversation, by which samples are ordered
        reply_at.npy         (N,) int32: the first supervised token that another one comes before
        places.npy           (M,) int32 for all images of all samples: its IMAGE_ID, counted in the sample
        sizes.npy            (M, 3) int32 pixels of the image, width and height; frames of a video, 0 of an image
        images.npy           (M, 32) uint8 SHA-256 of the image's file
        dropped.json         rows that cannot be trained on, with their reasons
    index/<key>.parts/       what is done of it so far, a file for each 4096 rows

Rows are read as LLaVA reads them: what the model says before it was asked is dropped, and `<image>` is text where there
is no image; `<video>` means the same where there is a video. A row that LLaVA would fail on, or quietly train on
wrongly, is dropped with its reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from trainers.checkpoints.commit import commit_folder, missing
from trainers.data.manifest import Manifest, Visual, conversation, name, open_manifest
from trainers.data.templates import IGNORE_INDEX, IMAGE, IMAGE_ID, VIDEO, Tokenizer, encode
from trainers.encoders.images import open_image
from trainers.encoders.videos import video_shape
from trainers.errors import DataError
from trainers.utils.atomic import atomic_write
from trainers.utils.digest import SHORT, digest, digest_of
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter, silent

VERSION = 2
CHUNK = 4096  # rows of one part
_LONGEST_NAME = 200  # characters
_SHOWN = 5  # problems that an error lists
_Look = tuple[tuple[int, int, int], bytes]
_RAGGED = {
    "tokens_at": ("input_ids", "learnt"),
    "names_at": ("names",),
    "images_at": ("places", "sizes", "images"),
    "files_at": ("files",),
}
_EMPTY = {
    "input_ids": np.empty(0, np.int32),
    "learnt": np.empty(0, bool),
    "places": np.empty(0, np.int32),
    "sizes": np.empty((0, 3), np.int32),
    "images": np.empty((0, 32), np.uint8),
    "names": np.empty(0, np.uint8),
    "files": np.empty(0, np.uint8),
}
_PLAIN = ("rows", "characters", "reply_at")
_ALONE = 2 * CHUNK  # rows that this process does by itself: others take seconds to start


@dataclass(frozen=True)
class Dropped:
    """A row that cannot be trained on.

    Attributes:
        row: its number in the manifest.
        name: how it is called.
        reason: why.
    """

    row: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Source:
    """What an index is made from.

    Attributes:
        manifest: path of the manifest.
        images: the folder of its image files; the manifest's own folder where it is not given.
        template: the conversation template.
        tokenizer: the language model's.
    """

    manifest: Path
    images: Path | None
    template: str
    tokenizer: Tokenizer

    def open(self) -> Manifest:
        """The manifest."""
        return open_manifest(self.manifest, self.images)

    @property
    def key(self) -> str:
        """Stands for everything that the index depends on, but for what the image files hold."""
        words, folder = self.tokenizer, (self.images or self.manifest.parent).absolute()
        special = [words.bos_token_id, words.eos_token, words.chat_template]
        own = [self.template, str(folder), words.backend_tokenizer.to_str(), json.dumps(special)]
        return digest([str(VERSION), digest_of(self.manifest), *own])[:SHORT]


def build_index(source: Source, folder: Path, report: Reporter = silent, processes: int | None = None) -> Path:
    """Make the index of a manifest, or find it made. What an interrupted call did is not done again.

    Args:
        source: what it is made from.
        folder: where indices are kept.
        report: is told how far it is.
        processes: how many look at rows at the same time; one for each core by default.

    Returns:
        The index, a committed folder.

    Raises:
        DataError: the manifest cannot be read, or has no sample that can be trained on.
    """
    target = folder / source.key
    with Locks(folder).exclusive(f"{target.name}.lock"):
        if missing(target):
            parts = folder / f"{target.name}.parts"
            parts.mkdir(parents=True, exist_ok=True)
            _join(_make_parts(source, parts, report, processes or os.cpu_count() or 1), source.manifest, target)
            shutil.rmtree(parts)
    return target


# -- parts -------------------------------------------------------------------------------------------------------------


def _make_parts(source: Source, folder: Path, report: Reporter, processes: int) -> list[Path]:
    """Examine all rows, a chunk at a time, as many at once as there are processes."""
    waiting: list[Future[None]] = []
    made: list[Path] = []
    rows = 0
    chunks = _chunks(source.open())
    first = list(islice(chunks, _ALONE // CHUNK))  # most manifests of tests and small studies end here
    with _executor(source, 1 if sum(map(len, first)) < _ALONE else processes) as executor:
        for chunk in (one for some in (first, chunks) for one in some):
            part = folder / f"{len(made):06d}.npz"
            if not part.exists():
                waiting.append(executor.submit(_examine, chunk, rows, part))
            if len(waiting) > 2 * processes:  # no more than that is in memory
                waiting.pop(0).result()
            made.append(part)
            rows += len(chunk)
            report(f"indexing {source.manifest.name}, {rows:,} samples")
        for one in waiting:
            one.result()
    return made


def _chunks(manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    rows = iter(manifest)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


class _Here(Executor):
    """Does what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@contextmanager
def _executor(source: Source, processes: int) -> Iterator[Executor]:
    if processes == 1:
        _start(source)
        yield _Here()
        return
    context = get_context("spawn")  # this process may have threads, and a GPU
    with ProcessPoolExecutor(processes, context, _start, (source,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_started: tuple[Source, Manifest] | None = None  # of this process: what it examines rows of


def _start(source: Source) -> None:
    global _started
    _started = source, source.open()


def _examine(chunk: Sequence[dict[str, Any]], first: int, part: Path) -> None:
    """Tokenise the rows of a chunk, look at their images, and write what was found."""
    assert _started is not None
    source, manifest = _started
    look = lru_cache(maxsize=CHUNK)(_look)  # some manifests ask often about one image
    samples: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    for number, row in enumerate(chunk, first):
        try:
            samples.append(_sample(source, manifest, number, row, look))
        except DataError as error:
            dropped.append(Dropped(number, name(number, row), str(error)))
    ragged = {column: [one[column] for one in samples] for column in _EMPTY}
    ragged["files"] = [file for files in ragged["files"] for file in files]  # one for each image
    arrays = {column: np.array([one[column] for one in samples]) for column in _PLAIN}
    arrays |= {column: np.concatenate([_EMPTY[column], *values]) for column, values in ragged.items()}
    arrays |= {at: np.cumsum([0, *map(len, ragged[columns[0]])]) for at, columns in _RAGGED.items()}
    arrays["dropped"] = _bytes(json.dumps([vars(one) for one in dropped]).encode())
    with atomic_write(part) as fresh, fresh.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for options


def _sample(
    source: Source,
    manifest: Manifest,
    number: int,
    row: dict[str, Any],
    look: Callable[[Visual], _Look],
) -> dict[str, Any]:
    """What the index keeps of a row. Raises DataError for one that cannot be trained on."""
    turns, characters = conversation(row)
    visuals = manifest.visuals(number, row)
    if any(one.video for one in visuals):
        turns = tuple(replace(turn, text=turn.text.replace(VIDEO, IMAGE)) for turn in turns)
    tokens = encode(source.template, turns, source.tokenizer, images=len(visuals))
    places = np.flatnonzero(tokens.input_ids == IMAGE_ID).astype(np.int32)
    if not len(places):
        visuals = []  # LLaVA does not show it either
    if len(places) != len(visuals):
        images = f"{len(visuals)} image" + ("s" if len(visuals) > 1 else "")
        raise DataError(f"{images} but {len(places)} {IMAGE} in its conversation")
    learnt = tokens.labels != IGNORE_INDEX
    if not learnt[1:].any():
        raise DataError(f"no supervised token (template {source.template}); nothing would be learnt from it")
    looked = [_look(one) if isinstance(one.source, bytes) else look(one) for one in visuals]
    return {
        "input_ids": tokens.input_ids.astype(np.int32),
        "learnt": learnt,
        "names": _bytes(name(number, row)[:_LONGEST_NAME].encode(errors="replace")),
        "files": [_bytes(os.fsencode(one.source) if isinstance(one.source, Path) else b"") for one in visuals],
        "rows": number,
        "characters": characters,
        "reply_at": np.int32(1 + learnt[1:].argmax()),
        "places": places,
        "sizes": np.array([size for size, _ in looked], np.int32).reshape(-1, 3),
        "images": _bytes(b"".join(content for _, content in looked)).reshape(-1, 32),
    }


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _look(visual: Visual) -> _Look:
    """Width, height, frames and SHA-256 of an image or video that can be decoded."""
    source = visual.source
    shape = video_shape(source) if visual.video else (*open_image(source).size, 0)
    content = source if isinstance(source, bytes) else source.read_bytes()
    return shape, hashlib.sha256(content).digest()


# -- the whole ---------------------------------------------------------------------------------------------------------


def _join(parts: Sequence[Path], manifest: Path, target: Path) -> None:
    """Write the arrays of all parts as one index."""
    if not parts:
        raise DataError(f"{manifest}: no sample in it")
    if not any(len(_column(part, "rows")) for part in parts):
        raise DataError(problems([one for part in parts for one in _dropped(_column(part, "dropped"))], 0, manifest))
    with commit_folder(target) as folder:
        for column in (*_PLAIN, *_RAGGED, *_EMPTY):
            _concatenate(column, parts, folder / f"{column}.npy")
        dropped = [vars(one) for part in parts for one in _dropped(_column(part, "dropped"))]
        (folder / "dropped.json").write_text(json.dumps(dropped, indent=1))


def _concatenate(column: str, parts: Sequence[Path], path: Path) -> None:
    """Write one column of all parts, with one of them in memory at a time. What says where samples begin is moved."""
    filled = [part for part in parts if len(_column(part, "rows"))]
    shapes = [_column(part, column).shape for part in filled]
    begins = column in _RAGGED
    length = sum(shape[0] - begins for shape in shapes) + begins
    example = _column(filled[0], column)
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=example.dtype, shape=(length, *example.shape[1:]))
    place = base = 0
    for part in filled:
        values = _column(part, column)
        if begins:
            values = values + base
            base = int(values[-1])
        whole[place : place + len(values)] = values
        place += len(values) - begins
    whole.flush()


def _column(part: Path, column: str) -> np.ndarray:
    with np.load(part) as opened:
        values: np.ndarray = opened[column]
        return values


def _dropped(text: np.ndarray) -> list[Dropped]:
    return [Dropped(**one) for one in json.loads(text.tobytes())]


def problems(dropped: Sequence[Dropped], good: int, manifest: Path) -> str:
    """What is wrong with a manifest: how many rows, and the first of them."""
    more = f"; and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
    listed = "; ".join(f"sample {one.name}: {one.reason}" for one in dropped[:_SHOWN])
    return f"{manifest}: {len(dropped)} of {good + len(dropped)} samples can't be trained on: {listed}{more}"
