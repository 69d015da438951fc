"""Checkpoints as they were before each process wrote its own shards: whole weights, and a pickled optimizer."""

from __future__ import annotations

from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

from trainers.errors import TrainingError, first_line
from trainers.model.loading import load_weights
from trainers.model.multimodal import MultimodalModel

_OPTIMIZER = "optimizer.pt"


def is_earlier(folder: Path) -> bool:
    """Whether a checkpoint is one of these."""
    return (folder / _OPTIMIZER).exists()


def load_earlier(folder: Path, model: MultimodalModel, optimizer: Any, *, sharded: bool) -> None:
    """Give a model and its optimizer what a checkpoint has. Code in its files is not run.

    Args:
        folder: of the checkpoint.
        model: gets the weights.
        optimizer: gets the moments; as Accelerate prepared it.
        sharded: whether both are spread over the processes, all of which call this.

    Raises:
        TrainingError: a file cannot be read, or is that of another model.
    """
    moments = _read_optimizer(folder / _OPTIMIZER, optimizer)
    model.load_trainable(load_weights(folder, set(model.trainable())), folder)
    if sharded:
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(model, optimizer.optimizer, moments, options=options)
    else:
        optimizer.load_state_dict(moments)


def _read_optimizer(path: Path, optimizer: Any) -> dict[str, Any]:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        keys = [key for group in found["param_groups"] for key in group["params"]]
        shapes = {key: [one["exp_avg"].shape, one["exp_avg_sq"].shape] for key, one in found["state"].items()}
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, PickleError) as error:
        raise TrainingError(f"{path}: not an optimizer's state: {first_line(error)}") from error
    own = {key: [weight.shape] * 2 for key, weight in zip(keys, weights, strict=False)}
    if len(keys) != len(weights) or any(own.get(key) != shape for key, shape in shapes.items()):
        raise TrainingError(f"{path}: of another model: its moments do not fit the weights that are trained")
    return found
