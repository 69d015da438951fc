"""Training data: LLaVA's JSON manifests and parquet, read strictly and checked before a GPU is.

JSON: a list of {id, image (a file below the image folder; absent for text alone), conversations: [{from, value}, ...]}.
Parquet: the same columns, with the image's bytes, or its file, in `image`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from trainers.data.templates import IGNORE_INDEX, IMAGE, IMAGE_ID, Tokenizer, Tokens, Turn, encode
from trainers.encoders.images import open_image
from trainers.errors import DataError
from trainers.utils.parsing import parse_json
from trainers.utils.regular_files import open_regular, read_text

_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}
_SHOWN = 5  # problems that an error lists
_KEPT = 8192  # samples whose tokens are kept, once made


class Rows(Protocol):
    """The records of a manifest file."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> dict[str, Any]:
        """The id and the conversations of one sample."""
        ...

    def has_image(self, index: int) -> bool:
        """Whether a sample has an image."""
        ...

    def image(self, index: int) -> bytes | Path | None:
        """A sample's image file, or its bytes; None where it has no image."""
        ...


@dataclass(frozen=True)
class _Json:
    records: list[dict[str, Any]]
    images: Path

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> dict[str, Any]:
        return self.records[index]

    def has_image(self, index: int) -> bool:
        return self.records[index].get("image") is not None

    def image(self, index: int) -> bytes | Path | None:
        return _source(self.records[index].get("image"), self.images)


@dataclass(frozen=True)
class _Parquet:
    table: Any  # a pyarrow table
    images: Path

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _texts(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.table.select(["id", "conversations"]).to_pylist()
        return rows

    def record(self, index: int) -> dict[str, Any]:
        return self._texts[index]

    @cached_property
    def _shown(self) -> np.ndarray:
        """(N,) bool: which rows have an image, without reading it. A datasets.Image may be there and hold nothing."""
        import pyarrow
        import pyarrow.compute as compute

        if "image" not in self.table.column_names:
            return np.zeros(len(self), dtype=bool)
        column = self.table["image"]
        if not pyarrow.types.is_struct(column.type):
            return np.asarray(compute.is_valid(column))
        fields = [compute.struct_field(column, name) for name in column.type.names if name in ("bytes", "path")]
        valid = [np.asarray(compute.is_valid(field)) for field in fields]
        return np.asarray(np.logical_or.reduce([np.zeros(len(self), dtype=bool), *valid]))

    def has_image(self, index: int) -> bool:
        return bool(self._shown[index])

    def image(self, index: int) -> bytes | Path | None:
        if not self.has_image(index):
            return None
        value = self.table["image"][index].as_py()
        if isinstance(value, dict):  # a datasets.Image: {bytes, path}
            value = value.get("bytes") or value.get("path")
        return _source(value, self.images)


def _source(value: Any, images: Path) -> bytes | Path | None:
    """Raises DataError for what is neither an image's bytes nor a file's name."""
    if value is not None and not isinstance(value, bytes | str):
        raise DataError(f"image must be the name of one file, or its bytes, not {value!r:.60}")
    return images / value if isinstance(value, str) else value


class Manifest:
    """Samples to train on. Made by `read_manifest`."""

    def __init__(self, path: Path, rows: Rows) -> None:
        self.path = path
        self._rows = rows
        self._coded: dict[tuple[int, str, int, int], tuple[Tokenizer, Tokens]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """How errors name a sample."""
        given = self._rows.record(index).get("id")
        return f"number {index}" if given in (None, "") else str(given)

    def has_image(self, index: int) -> bool:
        """Whether a sample has an image."""
        return self._rows.has_image(index)

    def image(self, index: int) -> Image.Image | None:
        """A sample's image in RGB; None where it has none.

        Raises:
            DataError: the image is missing or cannot be decoded; the message names the sample.
        """
        try:
            source = self._rows.image(index)
            return None if source is None else open_image(source)
        except DataError as error:
            raise self._problem(index, str(error)) from error

    def _problem(self, index: int, what: str) -> DataError:
        return DataError(f"{self.path}, sample {self.name(index)}: {what}")

    def _conversation(self, index: int) -> list[dict[str, str]]:
        said = self._rows.record(index)["conversations"]
        turns: list[dict[str, str]] = parse_json(said) if isinstance(said, str) else said
        return turns

    def turns(self, index: int) -> tuple[Turn, ...]:
        """A sample's conversation.

        Raises:
            DataError: it is none; the message names the sample.
        """
        try:
            turns = tuple(_turn(said) for said in self._conversation(index))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"conversations must be a list of {{from: human or gpt, value}}; problem with {error}"
            raise self._problem(index, reason) from error
        if not turns:
            raise self._problem(index, "its conversation is empty")
        return turns

    def tokens(self, index: int, template: str, tokenizer: Tokenizer, image_tokens: int, longest: int) -> Tokens:
        """A sample as the model sees it.

        Args:
            index: of the sample.
            template: the conversation template.
            tokenizer: the language model's.
            image_tokens: positions that the image takes in the end; here it is a single IMAGE_ID.
            longest: positions after which the sample is cut.

        Raises:
            DataError: no supervised token is left, or image and `<image>` do not match; the message names the sample.
        """
        key = (index, template, image_tokens, longest)
        by, kept = self._coded.get(key, (None, None))
        if kept is not None and by is tokenizer:
            return kept
        turns = self.turns(index)
        try:
            tokens = encode(template, turns, tokenizer)
        except DataError as error:
            raise self._problem(index, str(error)) from error
        placeholders, images = int((tokens.input_ids == IMAGE_ID).sum()), int(self.has_image(index))
        if placeholders != images:
            raise self._problem(index, f"{images or 'no'} image but {placeholders} {IMAGE} in its conversation")
        room = max(0, longest - (image_tokens - 1) * images)
        tokens = Tokens(tokens.input_ids[:room], tokens.labels[:room])
        if images and IMAGE_ID not in tokens.input_ids:
            raise self._problem(index, f"its image of {image_tokens} tokens is not within {longest} positions")
        if (tokens.labels[1:] == IGNORE_INDEX).all():
            reason = f"no supervised token within {longest} positions (template {template})"
            raise self._problem(index, f"{reason}; nothing would be learnt from it")
        if len(self._coded) < _KEPT:
            self._coded[key] = tokenizer, tokens
        return tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) characters of each conversation: a length that is the same for every tokenizer and candidate."""
        return np.array([sum(len(said["value"]) for said in self._conversation(i)) for i in range(len(self))])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest file, and of the names, sizes and times of the image files that it points to."""
        with open_regular(self.path) as file:
            content = hashlib.file_digest(file, "sha256")
        for index in range(len(self)):
            try:
                source = self._rows.image(index)
                status = source.stat() if isinstance(source, Path) else None
            except DataError as error:
                raise self._problem(index, str(error)) from error
            except (OSError, ValueError):  # no such file, or a name that no file can have
                continue
            if isinstance(source, Path) and status is not None:
                content.update(f"{source.name} {status.st_size} {status.st_mtime_ns}".encode())
        return content.hexdigest()


def _turn(said: dict[str, Any]) -> Turn:
    role, text = _ROLES[said["from"]], said["value"]
    if not isinstance(text, str):
        raise TypeError(f"value {text!r:.60}")
    text.encode()  # raises ValueError for half a surrogate pair, which JSON can write and no tokenizer reads
    return Turn(role, text)


def read_manifest(path: Path, images: Path | None = None) -> Manifest:
    """Open a manifest.

    Args:
        path: a .json or .parquet file.
        images: the folder of its image files; the manifest's own folder where it is not given.

    Raises:
        DataError: the file is missing, is not a manifest, is empty, or lacks a column.
    """
    folder = images or path.parent
    try:
        if path.suffix == ".parquet":
            rows: Rows = _Parquet(_read_parquet(path), folder)
        elif path.suffix == ".json":
            records = parse_json(read_text(path))
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise DataError(f"{path}: must be a list of samples, as LLaVA's manifests are")
            rows = _Json(records, folder)
        else:
            raise DataError(f"{path}: a manifest is a .json or a .parquet file")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not len(rows):
        raise DataError(f"{path}: no sample in it")
    return Manifest(path, rows)


def _read_parquet(path: Path) -> Any:
    """A pyarrow table with the columns that it must have. Its texts are checked, since pyarrow trusts the file."""
    import pyarrow.parquet

    try:
        open_regular(path).close()  # which pyarrow would wait for
        table = pyarrow.parquet.read_table(path, memory_map=True)
        table.validate(full=True)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    names = table.column_names
    for name in ("id", "conversations", "image"):
        if names.count(name) > 1 or (name not in names and name != "image"):
            there = "more than one" if name in names else "no"
            raise DataError(f"{path}: {there} column {name!r}; it has {', '.join(names)}")
    return table


def check(
    manifest: Manifest,
    template: str,
    tokenizer: Tokenizer,
    image_tokens: int,
    longest: int,
    *,
    decode: bool = True,
    threads: int = 8,
) -> dict[str, int]:
    """Read, decode and tokenise every sample.

    Args:
        manifest: the samples.
        template: the conversation template.
        tokenizer: the language model's.
        image_tokens: positions that an image takes.
        longest: positions after which a sample is cut.
        decode: False where features of the images are cached already.
        threads: how many samples are read at a time.

    Returns:
        How many samples, images, tokens and supervised tokens there are.

    Raises:
        DataError: samples cannot be trained on; the message lists the first ones, and says how many there are.
    """

    def one(index: int) -> tuple[int, int, int] | str:
        try:
            tokens = manifest.tokens(index, template, tokenizer, image_tokens, longest)
            if decode:
                manifest.image(index)
        except DataError as error:
            return str(error).removeprefix(f"{manifest.path}, ")
        return int(manifest.has_image(index)), len(tokens.input_ids), int((tokens.labels != IGNORE_INDEX).sum())

    with ThreadPoolExecutor(threads) as pool:
        results: Sequence[tuple[int, int, int] | str] = list(pool.map(one, range(len(manifest))))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{manifest.path}: {len(problems)} of {len(manifest)} samples can't be trained on: "
            f"{'; '.join(problems[:_SHOWN])}{more}"
        )
    images, tokens, supervised = np.array(results, dtype=np.int64).sum(axis=0).tolist()
    return {
        "samples": len(manifest),
        "images": images,
        "tokens": tokens + images * (image_tokens - 1),
        "supervised_tokens": supervised,
    }
