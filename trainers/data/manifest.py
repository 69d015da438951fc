"""Training data as it comes: LLaVA's JSON manifests and parquet, read one row after the other.

JSON: a list of {id, image (a file below the image folder, or a list of them; absent for text alone), conversations:
[{from, value}, ...]}, as LLaVA's, LLaVA-NeXT's and LLaVA-OneVision's; with `video` in place of `image` a video file.
Parquet: the same columns, with bytes in place of a file's name, or a datasets.Image with either.

A manifest may be larger than memory is, so nothing here holds it; `trainers.data.index` reads it once and for all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainers.data.templates import Turn
from trainers.errors import DataError
from trainers.utils.parsing import json_elements, parse_json
from trainers.utils.regular_files import open_regular

_SHOWN = ("image", "video")  # columns
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Visual:
    """An image or a video of a row.

    Attributes:
        source: its file, or the bytes of that.
        video: whether it is a video.
    """

    source: bytes | Path
    video: bool = False


class Manifest(Protocol):
    """The rows of a manifest file."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the rows in order, with everything but the images and videos of a parquet file.

        Raises:
            DataError: the file cannot be read, or is no manifest.
        """
        ...

    def visuals(self, number: int, row: dict[str, Any]) -> list[Visual]:
        """The images or videos of a row, in their order.

        Args:
            number: of the row.
            row: the row itself.

        Raises:
            DataError: there is something else in its place.
        """
        ...


@dataclass(frozen=True)
class _Json:
    path: Path
    images: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with io.TextIOWrapper(open_regular(self.path), encoding="utf-8") as file:
                for row in json_elements(file):
                    if not isinstance(row, dict):
                        raise ValueError("must be a list of samples, as LLaVA's manifests are")
                    yield row
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read: {' '.join(str(error).split())}") from error

    def visuals(self, number: int, row: dict[str, Any]) -> list[Visual]:
        return _visuals(row, self.images)


@dataclass(frozen=True)
class _Parquet:
    path: Path
    images: Path

    @cached_property
    def _table(self) -> Any:
        """A pyarrow table with the columns that it must have. Its texts are checked, since pyarrow trusts the file."""
        import pyarrow.parquet

        try:
            open_regular(self.path).close()  # which pyarrow would wait for
            table = pyarrow.parquet.read_table(self.path, memory_map=True)
            table.validate(full=True)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error
        names = table.column_names
        for name in ("id", "conversations", *_SHOWN):
            if names.count(name) > 1 or (name not in names and name not in _SHOWN):
                there = "more than one" if name in names else "no"
                raise DataError(f"{self.path}: {there} column {name!r}; it has {', '.join(names)}")
        return table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.select(["id", "conversations"]).to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    @cached_property
    def _valid(self) -> dict[str, np.ndarray]:
        """Of each column (N,) bool: which rows have something there, without reading it."""
        return {name: self._has(self._table[name]) for name in _SHOWN if name in self._table.column_names}

    def _has(self, column: Any) -> np.ndarray:
        """(N,) bool. A datasets.Image may be there and hold nothing."""
        import pyarrow
        import pyarrow.compute as compute

        if not pyarrow.types.is_struct(column.type):
            return np.asarray(compute.is_valid(column))
        fields = [compute.struct_field(column, name) for name in column.type.names if name in ("bytes", "path")]
        valid = [np.asarray(compute.is_valid(field)) for field in fields]
        return np.asarray(np.logical_or.reduce([np.zeros(self._table.num_rows, dtype=bool), *valid]))

    def visuals(self, number: int, row: dict[str, Any]) -> list[Visual]:
        shown = {name: self._table[name][number].as_py() for name, valid in self._valid.items() if valid[number]}
        return _visuals(shown, self.images)


def _visuals(row: dict[str, Any], folder: Path) -> list[Visual]:
    """Raises DataError for what is neither an image's bytes nor a file's name, nor a list of these."""
    found = []
    for name in _SHOWN:
        given = row.get(name)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, dict):  # a datasets.Image: {bytes, path}
                value = value.get("bytes") or value.get("path")
            if value is None and given is value:
                continue
            if not isinstance(value, bytes | str):
                raise DataError(
                    f"{name} must be the name of a file, or its bytes, or a list of them, not {value!r:.60}"
                )
            found.append(Visual(folder / value if isinstance(value, str) else value, name == "video"))
    if len({one.video for one in found}) > 1:
        raise DataError("has images and a video; a sample shows one or the other")
    return found


def open_manifest(path: Path, images: Path | None = None) -> Manifest:
    """Open a manifest; what is in it is read later.

    Args:
        path: a .json or .parquet file.
        images: the folder of its image files; the manifest's own folder where it is not given.

    Raises:
        DataError: the file's name ends in something else.
    """
    if path.suffix == ".json":
        return _Json(path, images or path.parent)
    if path.suffix == ".parquet":
        return _Parquet(path, images or path.parent)
    raise DataError(f"{path}: a manifest is a .json or a .parquet file")


def name(number: int, row: dict[str, Any]) -> str:
    """How errors name a row."""
    given = row.get("id")
    return f"number {number}" if given in (None, "") else str(given)


def conversation(row: dict[str, Any]) -> tuple[tuple[Turn, ...], int]:
    """The turns of a row, from the user's first on: what the model says before it was asked is dropped, as LLaVA does.

    Returns:
        The turns, and the number of characters of all that was said: a length that is the same for every tokenizer.

    Raises:
        DataError: it is no conversation.
    """
    try:
        said = row["conversations"]
        turns = [_turn(one) for one in (parse_json(said) if isinstance(said, str) else said)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"conversations must be a list of {{from: human or gpt, value}}; problem with {error}"
        ) from error
    asked = turns[1:] if turns and turns[0].role == "assistant" else turns
    if not asked:
        raise DataError("its conversation is empty")
    return tuple(asked), sum(len(turn.text) for turn in turns)


def _turn(said: dict[str, Any]) -> Turn:
    role, text = _ROLES[said["from"]], said["value"]
    if not isinstance(text, str):
        raise TypeError(f"value {text!r:.60}")
    text.encode()  # raises ValueError for half a surrogate pair, which JSON can write and no tokenizer reads
    return Turn(role, text)
