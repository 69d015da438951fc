"""SHA-256 of files and texts, for names that say what a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from trainers.errors import ConfigError
from trainers.utils.regular_files import open_regular

SHORT = 24  # characters of a digest in a name
_digests: dict[tuple[str, int, int], str] = {}


def sha256(path: Path) -> str:
    """SHA-256 of a regular file as it is now."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, which is read again only when its size or time has changed.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in _digests:
            _digests[key] = sha256(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return _digests[key]


def digest(parts: Sequence[str]) -> str:
    """SHA-256 of several texts."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
