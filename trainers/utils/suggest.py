"""The nearest known name, for errors about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(given: str, known: Iterable[str], label: str = "known") -> str:
    """The end of a message about an unknown name.

    Args:
        given: the unknown name.
        known: the known names.
        label: the word before the known names.

    Returns:
        "did you mean 'name'?" for the nearest known name; where none is near, all of them behind the label.
    """
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{label}: {', '.join(names)}"
