"""Whose fault it is that a GPU's memory does not suffice: the candidate's, or that of others who used it.

Only a candidate that had the GPU to itself can be too large for it. What a rank finds when it begins is kept by the
process, because what it finds later is its own.
"""

from __future__ import annotations

import torch

from trainers.errors import CandidateError, CrashedError, TrainingError

# A CUDA context, a driver and a desktop take up to so many bytes; who holds more is another process.
_NOBODY = 2 * 10**9
_held = 0  # bytes of this process's GPU that were taken when it began


def note_memory(device: torch.device) -> None:
    """Remember how much of a GPU others hold, before this process uses it."""
    global _held
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        _held = total - free


def out_of_memory(what: str, advice: str) -> TrainingError:
    """The error for what a GPU's memory did not suffice for.

    Args:
        what: was done, for the message.
        advice: what makes it smaller.
    """
    return blame(what, advice, _held)


def blame(what: str, advice: str, held: int) -> TrainingError:
    """The same, where so many bytes of the GPU were taken when the process began.

    Returns:
        A CandidateError where the GPU was free; else a CrashedError, so that it is tried again.
    """
    if held <= _NOBODY:
        return CandidateError(f"out of memory {what}: {advice}")
    return CrashedError(
        f"out of memory {what}: other processes held {held / 1e9:.0f} GB of the GPU when this one began; end them, or "
        "wait for them"
    )
