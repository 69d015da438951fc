"""The precision in which a stage computes, and with it everything that is measured on its model."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precision(asked: Literal["auto", "fp32", "bf16"]) -> Precision:
    """What `trainers.job.Stage.precision` is on this machine: auto is bf16 with a GPU and fp32 without."""
    if asked == "auto":
        return "bf16" if torch.cuda.is_available() else "fp32"
    return asked


def dtype_of(precision: Precision) -> torch.dtype:
    """A precision as torch's type."""
    return _DTYPES[precision]
