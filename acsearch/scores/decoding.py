"""Decoding: from the similarities of a keypoint to all cells of the target image to a position on the grid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

WINDOW = 5  # cells on each side of the most similar one
TEMPERATURE = 0.02


def argmax(cosines: Tensor, grid: tuple[int, int]) -> Tensor:
    """Take the most similar cell, the first one of equals.

    Args:
        cosines: (n, height * width) similarities.
        grid: Height and width of the grid, in cells.

    Returns:
        (n, 2) column and row.
    """
    best = cosines.argmax(dim=1)
    return torch.stack([best % grid[1], best // grid[1]], dim=1).double()


def soft_argmax(
    cosines: Tensor,
    grid: tuple[int, int],
    *,
    window: int = WINDOW,
    temperature: float = TEMPERATURE,
    outside: Literal["left out", "zero"] = "left out",
) -> Tensor:
    """Take the expected position under a softmax around the most similar cell.

    Args:
        cosines: (n, height * width) similarities.
        grid: Height and width of the grid, in cells.
        window: Cells on each side of the most similar one that take part.
        temperature: Temperature of the softmax.
        outside: Whether the cells outside the window are left out, or take part with similarity zero. The code of the
            AC law does the latter, which pulls the predictions of weak encoders towards the centre of the image.

    Returns:
        (n, 2) column and row, with fractions.
    """
    height, width = grid
    best = cosines.argmax(dim=1)
    steps = torch.arange(-window, window + 1, device=cosines.device)
    columns, rows = (best % width)[:, None] + steps, (best // width)[:, None] + steps  # (n, 2 * window + 1)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    around = cosines.gather(1, place.flatten(1)).view(place.shape).double()
    top = around.amax(dim=(1, 2))
    if outside == "zero":
        top = top.clamp_min(0)
    weights = ((around - top[:, None, None]) / temperature).exp() * inside
    mass = weights.sum(dim=(1, 2))
    x = (weights.sum(dim=1) * columns).sum(dim=1)
    y = (weights.sum(dim=2) * rows).sum(dim=1)
    if outside == "zero":
        each = (-top / temperature).exp()  # the weight of a cell outside
        many = inside.sum(dim=(1, 2))
        mass = mass + each * (height * width - many)
        x = x + each * (height * width * (width - 1) / 2 - (inside * columns[:, None, :]).sum(dim=(1, 2)))
        y = y + each * (height * width * (height - 1) / 2 - (inside * rows[:, :, None]).sum(dim=(1, 2)))
    return torch.stack([x, y], dim=1) / mass[:, None]
