"""Folders that are either whole or not there: checkpoints of a stage, and its result.

A folder is written under a temporary name, gets a manifest that lists every file with its SHA-256, is synced, and then
renamed. A folder that has no manifest, or files that do not fit it, does not count.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainers.errors import TrainingError
from trainers.utils.digest import sha256
from trainers.utils.parsing import parse_json

MANIFEST = "commit.json"
RESULT = "result"  # of a stage
PREFIX = "step-"
KEEP = 2  # checkpoints of a stage


@contextmanager
def commit_folder(folder: Path, expected: dict[str, str] | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and is removed when it does not.

    Args:
        folder: the folder to commit; what is there already is replaced.
        expected: SHA-256 of each file, where they are known.

    Raises:
        TrainingError: other files were written than expected.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for half in folder.parent.glob(f".{folder.name}.*"):  # of a process that died
        shutil.rmtree(half, ignore_errors=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    fresh.mkdir()
    try:
        yield fresh
        files = {path.relative_to(fresh).as_posix(): sha256(path) for path in _files(fresh)}
        if expected not in (None, files):
            raise TrainingError(f"{folder}: not what its {MANIFEST} says")
        (fresh / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True))
        for path in [*_files(fresh), fresh]:
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)  # an uncommitted or broken one
        fresh.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


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
    try:
        files = parse_json((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: not a committed checkpoint: no readable {MANIFEST}") from error
    if not isinstance(files, dict) or not files:
        raise TrainingError(f"{folder}: not a committed checkpoint: its {MANIFEST} lists nothing")
    for name, digest in files.items():
        path = folder / name
        if not os.path.isfile(path):  # unlike Path.is_file, also for a name that no file can have
            raise TrainingError(f"{folder}: {name} is missing")
        if sha256(path) != digest:
            raise TrainingError(f"{folder}: {name} has changed or is broken")


def missing(folder: Path) -> bool:
    """Whether files of a committed folder are missing: it is removed, or is being removed."""
    try:
        return not all((folder / name).exists() for name in json.loads((folder / MANIFEST).read_text()))
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


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
