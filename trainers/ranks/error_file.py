"""The error that ended a rank, as a file of its task's folder: from there `launch_ranks` raises it again."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

from trainers import errors
from trainers.errors import AcsearchError

_FILE = "error.json"


def write_error(folder: Path, error: AcsearchError) -> None:
    """Leave an error in a task's folder. Of several processes that fail, the first one's error stays."""
    fresh = folder / f".{_FILE}.{socket.gethostname()}.{os.getpid()}"
    with suppress(OSError):  # the process prints the error too
        fresh.write_text(json.dumps({"type": type(error).__name__, "message": str(error)}), encoding="utf-8")
        with suppress(FileExistsError):
            os.link(fresh, folder / _FILE)
        fresh.unlink()


def read_error(folder: Path) -> AcsearchError | None:
    """The error that a rank left in a task's folder; None where there is none."""
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        kind = error_type(found["type"])
    except (OSError, ValueError):
        return None
    return kind(found["message"]) if kind else None


def remove_error(folder: Path) -> None:
    """Forget the error of processes that ran in a task's folder before."""
    (folder / _FILE).unlink(missing_ok=True)


def error_type(name: str) -> type[AcsearchError] | None:
    """The class of `trainers.errors` that has this name; None where there is none."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, AcsearchError) else None
