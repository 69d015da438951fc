"""How long work tells a person what is going on."""

from __future__ import annotations

from collections.abc import Callable

Reporter = Callable[[str], None]  # what is going on, for a person who waits


def silent(text: str) -> None:
    """A reporter that says nothing."""
