"""Checks of a model against the files that it is loaded from: before it takes memory, and when it has its weights."""

from __future__ import annotations

import torch
from torch import nn

from trainers.errors import WeightsError


def check_fits(shape: nn.Module, size: int, *, resampled: str | None = None) -> None:
    """Compare a model's weights with the bytes of their files, before memory is taken for it.

    Args:
        shape: the model, on the meta device.
        size: bytes of the files; a weight has at least one.
        resampled: names with this in them do not count: tables that are made anew for another size of image.

    Raises:
        WeightsError: the model has more weights than the files can hold.
    """
    named = shape.named_parameters()
    weights = sum(weight.numel() for name, weight in named if resampled is None or resampled not in name)
    if weights > size:
        raise WeightsError(
            f"do not fit: their configuration describes {weights:,} weights, and the files have {size:,} bytes"
        )


def check_finite(model: nn.Module) -> None:
    """Look for NaN and infinities; one pass over the weights, a fraction of the time that reading them takes.

    Raises:
        WeightsError: there is one; the message names the tensor.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and not all(map(torch.isfinite, weight.detach().aminmax())):
            raise WeightsError(f"are broken: {name} has values that are not finite")
