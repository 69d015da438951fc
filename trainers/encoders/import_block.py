"""Import a library as if a package were not installed that it would import and we do not use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(package: str) -> Iterator[None]:
    """Imports within the block do not find this package. One that is imported already stays."""
    absent = package not in sys.modules
    if absent:
        sys.modules[package] = None  # type: ignore[assignment]  # as the import system's documentation has it
    try:
        yield
    finally:
        if absent:
            del sys.modules[package]
