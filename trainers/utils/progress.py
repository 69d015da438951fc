"""Callbacks by which work that takes long tells a caller how it is going."""

from __future__ import annotations

from collections.abc import Callable

Reporter = Callable[[str], None]  # what is going on, for a person who waits


def silent(text: str) -> None:
    """A Reporter that says nothing."""
