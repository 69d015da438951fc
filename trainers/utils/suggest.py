"""The nearest known name, for errors about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(given: str, known: Iterable[str], label: str = "known") -> str:
    """Returns "did you mean 'name'?" for the nearest name, or all of them, behind `label`, where none is near."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{label}: {', '.join(names)}"
