"""Failures of what is not ours, such as a disk or a database that went away: what to say of them in one line."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator

from acsearch.storage.sqlite import problem_of
from trainers.errors import first_line

_ADVICE = {
    errno.EACCES: "let its owner give you access, or use another folder (ACSEARCH_HOME, --storage)",
    errno.EPERM: "let its owner give you access, or use another folder (ACSEARCH_HOME, --storage)",
    errno.EROFS: "use a folder that can be written (ACSEARCH_HOME, --storage)",
    errno.ENOSPC: "make room; what is done is kept, and the same command goes on",
    errno.EDQUOT: "make room; what is done is kept, and the same command goes on",
    errno.EFBIG: "the file may not become larger here; see ulimit -f",
    errno.EMFILE: "this process may not open more files; see ulimit -n",
    errno.EIO: "its disk or network file system fails",
    errno.ESTALE: "its network file system went away",
}


def explain(error: BaseException) -> str | None:
    """One line that says what failed and what to do.

    Args:
        error: What no other code foresaw.

    Returns:
        The line; None where the error is one of acsearch's own, whose traceback is needed.
    """
    if problem := problem_of(error):
        return f"the SQLite database: {problem}"
    for one in _causes(error):
        if isinstance(one, OSError) and one.errno in _ADVICE:
            return f"{one.filename or 'a file'}: {os.strerror(one.errno)}; {_ADVICE[one.errno]}"
        if type(one).__name__ in ("OperationalError", "InterfaceError") and not isinstance(one, sqlite3.Error):
            said = first_line(getattr(one, "orig", None) or one)
            return f"the database: {said}; see whether it is up, then go on with the same command"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from, the innermost first."""
    if error is not None:
        yield from _causes(error.__cause__ or error.__context__)
        yield error
