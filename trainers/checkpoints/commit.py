"""Folders that are either whole or not there: checkpoints of a stage, and its result.

A folder is written under a temporary name, gets a manifest that lists every file with its SHA-256, is synced, and then
renamed. A folder that has no manifest, or files that do not fit it, does not count.

A manifest may come from others: from a work store, or in a folder of theirs. It is read into a strict model, whose
names are those of files below the folder, before anything is done with them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, RootModel, StringConstraints, ValidationError, model_validator

from trainers.errors import TrainingError
from trainers.utils.digest import sha256

MANIFEST = "commit.json"
RESULT = "result"  # of a stage
PREFIX = "step-"
KEEP = 2  # checkpoints of a stage
LARGEST_MANIFEST = 2**20  # bytes
_READERS = 8  # files that are read at a time
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"  # of a name: not hidden, no "..", nothing that a shell or a pattern reads

FileName = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART}){{0,3}}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Manifest(RootModel[Annotated[dict[FileName, Sha256], Field(min_length=1, max_length=1000)]], strict=True):
    """The files of a committed folder, each with its SHA-256."""

    @model_validator(mode="after")
    def _are_files(self) -> Manifest:
        taken = {MANIFEST} | {folder.as_posix() for name in self.root for folder in PurePosixPath(name).parents}
        for name in self.root:
            if name in taken or name.startswith(f"{MANIFEST}/"):
                raise ValueError(f"{name} cannot be a file there")
        return self


def parse_manifest(content: bytes) -> dict[str, str]:
    """The files that a manifest lists, with their SHA-256: at least one, all of them below its folder.

    Raises:
        ValueError: it is no manifest.
    """
    if len(content) > LARGEST_MANIFEST:
        raise ValueError(f"larger than {LARGEST_MANIFEST} bytes")
    try:
        return Manifest.model_validate_json(content).root
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(problem["msg"]) from error


def is_name(text: str) -> bool:
    """Whether a text can be the name of a file or a folder that we wrote."""
    return re.fullmatch(_PART, text) is not None


@contextmanager
def commit_folder(folder: Path, expected: dict[str, str] | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and is removed when it does not.

    Args:
        folder: the folder to commit; what is there already is replaced.
        expected: SHA-256 of each file, where they are known.

    Raises:
        TrainingError: other files were written than expected.
    """
    fresh = begin(folder)
    try:
        yield fresh
        complete(fresh, folder, expected)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def begin(folder: Path) -> Path:
    """A new temporary folder, to become `folder` by `complete`. What a process that died left of one is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for half in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(half, ignore_errors=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    fresh.mkdir()
    return fresh


def complete(fresh: Path, folder: Path, expected: dict[str, str] | None = None) -> None:
    """Commit what was written into a temporary folder.

    Args:
        fresh: the folder that `begin` made.
        folder: the folder to commit; what is there already is replaced.
        expected: SHA-256 of each file, where they are known.

    Raises:
        TrainingError: other files were written than expected.
    """
    paths = _files(fresh)
    files = {path.relative_to(fresh).as_posix(): one for path, one in zip(paths, _digests(paths), strict=True)}
    if expected not in (None, files):
        raise TrainingError(f"{folder}: not what its {MANIFEST} says")
    (fresh / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True))
    for path in [*_files(fresh), fresh]:
        _sync(path)
    shutil.rmtree(folder, ignore_errors=True)  # an uncommitted or broken one
    fresh.rename(folder)
    _sync(folder.parent)


def committed(folder: Path) -> bool:
    """Whether a folder is whole, by its manifest and its files' contents."""
    try:
        verify(folder)
    except TrainingError:
        return False
    return True


def verify(folder: Path) -> None:
    """Check a committed folder.

    Raises:
        TrainingError: something is missing or broken; the message says what.
    """
    files = read_manifest(folder)
    paths = [folder / name for name in files]
    for name, path in zip(files, paths, strict=True):
        if not path.is_file():
            raise TrainingError(f"{folder}: {name} is missing")
    for (name, digest), found in zip(files.items(), _digests(paths), strict=True):
        if found != digest:
            raise TrainingError(f"{folder}: {name} has changed or is broken")


def read_manifest(folder: Path) -> dict[str, str]:
    """The files of a committed folder with their SHA-256, as it says itself.

    Raises:
        TrainingError: it has no manifest, or one that cannot be used.
    """
    try:
        return _manifest(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{folder}: not a committed checkpoint: no readable {MANIFEST}: {reason}") from error


def missing(folder: Path) -> bool:
    """Whether files of a committed folder are missing: it is removed, or is being removed."""
    try:
        return not all((folder / name).exists() for name in _manifest(folder))
    except FileNotFoundError:
        return True


def step_folder(stage: Path, step: int) -> Path:
    """The folder of the checkpoint after an optimizer step."""
    return stage / f"{PREFIX}{step:08d}"


def latest(stage: Path) -> Path | None:
    """The last whole checkpoint of a stage; None where there is none."""
    return next((path for path in sorted(stage.glob(f"{PREFIX}*"), reverse=True) if committed(path)), None)


def prune(stage: Path, keep: int, spare: Path | None = None) -> None:
    """Remove old checkpoints of a stage, and what dead processes left half-written.

    Args:
        stage: the stage's folder.
        keep: how many of the last checkpoints stay.
        spare: a checkpoint that stays all the same, because it is being uploaded.
    """
    steps = sorted(stage.glob(f"{PREFIX}*"))
    for path in [*steps[: max(0, len(steps) - keep)], *stage.glob(f".{PREFIX}*"), *stage.glob(f".{RESULT}.*")]:
        if path != spare:
            shutil.rmtree(path, ignore_errors=True)


def _manifest(folder: Path) -> dict[str, str]:
    """Raises OSError or ValueError."""
    path = folder / MANIFEST
    if path.exists() and not path.is_file():  # such as a FIFO, on which reading waits
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        return parse_manifest(file.read(LARGEST_MANIFEST + 1))


def _digests(paths: list[Path]) -> list[str]:
    """SHA-256 of files, some at a time: of many shards it takes minutes one by one."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(sha256, paths))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
