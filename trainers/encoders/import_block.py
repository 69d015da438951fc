"""Imports without a package that a library would import only because it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(package: str) -> Iterator[None]:
    """What is imported in here finds no such package, unless it has been imported already; later, others do."""
    absent = package not in sys.modules
    if absent:
        sys.modules[package] = None  # type: ignore[assignment]  # as the import system's documentation has it
    try:
        yield
    finally:
        if absent:
            del sys.modules[package]
