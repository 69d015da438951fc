"""Names of candidates and benchmarks: one spelling for each, and short forms for where there is little room."""

from __future__ import annotations

import unicodedata


def normal(name: str) -> str:
    """The name in Unicode's normal form C, so that the two spellings of an é are one name."""
    return unicodedata.normalize("NFC", name)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """The text with an ellipsis for its middle, where it takes more columns than `width`."""
    if columns(text) <= width:
        return text
    after = (width - 1) // 2
    return f"{_first(text, width - 1 - after)}…{_first(text[::-1], after)[::-1]}"


def _first(text: str, width: int) -> str:
    end = 0
    while end < len(text) and columns(text[: end + 1]) <= width:
        end += 1
    return text[:end]
