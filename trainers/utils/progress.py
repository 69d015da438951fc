"""Callbacks by which work that takes long tells a caller how it is going."""

from __future__ import annotations

from collections.abc import Callable

Reporter = Callable[[str], None]  # what is going on, for a person who waits
CountCallback = Callable[[int, int], None]  # how many are done, of how many
StepCallback = Callable[[int, int, float], None]  # optimizer step, of how many, smoothed loss
BenchmarkCallback = Callable[[str, int, int], None]  # benchmark, samples answered, of how many


def silent(text: str) -> None:
    """A Reporter that says nothing."""
