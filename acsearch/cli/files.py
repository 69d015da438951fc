"""Files that a command writes where the user says: whole or not at all, and never over a file that is not ours."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from trainers.errors import ConfigError
from trainers.utils.atomic import atomic_write

Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist, whoever made them.")]
_BEGINNING = 4096  # bytes in which a mark must be


def write_files(contents: dict[Path, str], *, force: bool, marks: tuple[bytes, ...] = ()) -> None:
    """Write text files, all or none.

    Args:
        contents: by file.
        force: overwrite any regular file.
        marks: a regular file that has one of these in its beginning was made by this command, and is overwritten.

    Raises:
        ConfigError: a file exists that must not be overwritten, or cannot be written.
    """
    path = Path()
    try:
        for path in contents:
            _check(path, marks, force)
        with ExitStack() as whole:
            for path, content in contents.items():
                whole.enter_context(atomic_write(path)).write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _check(path: Path, marks: tuple[bytes, ...], force: bool) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder is not there; make it first")
    if not os.path.lexists(path):
        return
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ConfigError(f"{path}: exists and is not a regular file; choose another name")
    if force:
        return
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if not any(mark in beginning for mark in marks):
        raise ConfigError(f"{path}: exists already; choose another name, or --force to overwrite it")
