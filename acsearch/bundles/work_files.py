"""The files of the work folder in a bundle: which of them belong to a study, and how they are added to another folder.

A file, or a committed folder with all of its files, is written atomically, and only where it does not exist yet. Names
say what the content depends on (see `acsearch.runners.training`), so an existing file is equivalent. The training log
of a stage is the exception: it grows, and a log in the bundle that continues the one here replaces it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError

from acsearch.bundles.reader import Archive
from acsearch.bundles.writer import SCORES, Entry
from acsearch.errors import BundleError
from acsearch.runners.base import Artifacts
from acsearch.study.schema import Detail, first_error
from acsearch.tables.table import LARGEST
from trainers.checkpoints.commit import MANIFEST, commit_folder, committed, latest, verify
from trainers.utils.atomic import atomic_write
from trainers.utils.locks import Locks

_ROOT = "work"
_RESULT, _OUTBOX = "result", "outbox.jsonl"  # the names in `trainers.training.train`, which would import torch


def _with_value(measured: dict[str, float | None]) -> dict[str, float | None]:
    value = measured.get("value")
    if value is None or not abs(value) <= LARGEST:
        raise ValueError(f"value {value}")
    return measured


_MEASUREMENT = TypeAdapter(Annotated[dict[str, Detail | None], AfterValidator(_with_value)])


def study_files(artifacts: Artifacts, pool: int, finetuned: set[int], *, checkpoints: bool) -> list[Path]:
    """List the files in the work folder that belong to a study.

    Args:
        artifacts: What is left of the study's candidates.
        pool: Number of candidates.
        finetuned: Rows of the candidates that have a trial.
        checkpoints: Whether to include trained weights.

    Raises:
        TrainingError: a checkpoint is damaged.
    """
    found: set[Path] = set()
    for candidate in range(pool):
        for path in artifacts.files(candidate, finetuned=candidate in finetuned):
            found |= set(_stage(path, checkpoints)) if path.is_dir() else {path} if path.exists() else set()
    return sorted(found)


def _stage(folder: Path, checkpoints: bool) -> Iterator[Path]:
    yield from (path for path in [folder / _OUTBOX] if path.exists())
    yield from (folder / "eval" / "results").glob("*.json")
    yield from (folder / "eval" / "samples").glob("*.jsonl")
    if checkpoints:
        last = folder / _RESULT if (folder / _RESULT).exists() else latest(folder)
        if last is not None:
            verify(last)
            yield from (last / name for name in [MANIFEST, *json.loads((last / MANIFEST).read_text())])


def member_name(path: Path, work: Path) -> str:
    """The name in a bundle of a file in the work folder."""
    return f"{_ROOT}/{path.relative_to(work).as_posix()}"


def free_space(work: Path) -> int:
    """Free bytes on the disk of the work folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in work.absolute().parents if path.exists())).free


def check(archive: Archive) -> None:
    """Check every checkpoint in a bundle against its own manifest, and every measured score.

    Raises:
        BundleError: a checkpoint does not have the files that its manifest lists, or a score is no number.
    """
    for name, text in archive.texts.items():
        if name.startswith(SCORES):
            try:
                _MEASUREMENT.validate_json(text, strict=True)
            except ValidationError as error:
                raise BundleError(f"{archive.path}: {name}: {first_error(error)}") from error
    for unit, names in _units(archive).items():
        files = {PurePosixPath(name).name: archive.manifest.files[name].sha256 for name in names}
        files.pop(MANIFEST, None)
        with suppress(KeyError, ValueError, RecursionError):
            if names == [unit] or json.loads(archive.texts[f"{unit}/{MANIFEST}"]) == files:
                continue
        raise BundleError(f"{archive.path}: {unit} is not a committed checkpoint")


def extract(archive: Archive, work: Path, claims: ExitStack) -> int:
    """Write the files of a bundle into the work folder.

    Args:
        archive: The bundle.
        work: The work folder.
        claims: Receives the locks of the stages that are written, so that they are not trained meanwhile.

    Returns:
        Number of files that were added.

    Raises:
        BundleError: a stage is being trained right now, or a file cannot be written.
    """
    units, files, taken = _units(archive), archive.manifest.files, 0
    missing = [
        unit for unit, names in units.items() if _is_missing(_target(unit, work), names != [unit], files.get(unit))
    ]
    stages = {PurePosixPath(unit).parts[2] for unit in missing if unit.startswith(f"{_ROOT}/stages/")}
    try:
        for stage in sorted(stages):
            if not claims.enter_context(Locks(work / "stages" / stage).claim("lock")):
                raise BundleError(f"{work / 'stages' / stage}: somebody trains it right now; import later")
        for unit, members in groupby(archive.members() if missing else (), lambda one: _unit(one[0])):
            if unit in missing and units[unit] == [unit]:
                taken += _put_file(_target(unit, work), next(members)[1])
            elif unit in missing:
                with commit_folder(_target(unit, work)) as fresh:
                    for name, content in members:
                        if (file := PurePosixPath(name).name) != MANIFEST:
                            _write(fresh / file, content)
                taken += len(units[unit])
    except OSError as error:
        raise BundleError(f"{error.filename or work}: {error.strerror}") from error
    return taken


def _units(archive: Archive) -> dict[str, list[str]]:
    """What is written together: a single file, or all files of a committed folder."""
    units: dict[str, list[str]] = {}
    for name in archive.manifest.files:
        if name.startswith(f"{_ROOT}/"):
            units.setdefault(_unit(name), []).append(name)
    return units


def _unit(name: str) -> str:
    """The folder work/stages/DIGEST/result or .../step-N that a file is in, else the file itself."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:4]) if len(parts) == 5 else name


def _target(unit: str, work: Path) -> Path:
    return work / PurePosixPath(unit).relative_to(_ROOT)


def _is_missing(target: Path, is_folder: bool, entry: Entry | None) -> bool:
    if is_folder:
        return not committed(target) and not committed(target.with_name(_RESULT))
    assert entry is not None
    return not target.exists() or (target.name == _OUTBOX and entry.size > target.stat().st_size)


class _Kept(Exception):
    """A file stays as it is."""


def _put_file(target: Path, content: Iterator[bytes]) -> bool:
    """Write a file that does not exist, or that continues the existing one. Returns whether it was written."""
    with suppress(_Kept), atomic_write(target) as fresh:
        _write(fresh, content)
        if target.exists() and not fresh.read_bytes().startswith(target.read_bytes()):
            raise _Kept
        return True
    return False


def _write(path: Path, content: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
