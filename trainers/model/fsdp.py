"""Weights, gradients and optimizer spread over processes (FSDP2), and gathered again for checkpoints.

Checkpoints hold whole tensors, so a run may go on with another number of processes.
"""

from __future__ import annotations

from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trainers.errors import TrainingError, first_line

Groups = list[dict[str, Any]]


def shard(model: nn.Module, groups: Groups, processes: int, device: torch.device, half: bool) -> Groups:
    """Shard a model in place: each of the language model's blocks by itself, the rest together.

    Args:
        model: the multimodal model.
        groups: the optimizer's parameter groups.
        processes: that share the model.
        device: of this process.
        half: whether to compute in bf16; weights, gradients and their sums stay float32.

    Returns:
        The parameter groups with the sharded weights, which are other objects.
    """
    names = {id(weight): name for name, weight in model.named_parameters()}
    kept = [[names[id(weight)] for weight in group["params"]] for group in groups]
    mesh = init_device_mesh(device.type, (processes,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    llm: Any = model.llm
    blocks = set(llm._no_split_modules or ())  # transformers' own list of what belongs together
    for module in list(llm.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    weights = dict(model.named_parameters())
    return [{**group, "params": [weights[name] for name in own]} for group, own in zip(groups, kept, strict=True)]


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor itself; a sharded one is gathered from all processes, which must all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assign(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Set a weight from a whole tensor. A sharded weight takes its part of it."""
    with torch.no_grad():
        if isinstance(weight, DTensor):
            value = distribute_tensor(value.to(weight.device, weight.dtype), weight.device_mesh, weight.placements)
        weight.copy_(value)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by names of weights, in whole tensors on the CPU. Only the first process gets it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=isinstance(model, FSDPModule))
    return get_optimizer_state_dict(model, optimizer, options=options)


def read_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read an optimizer's state from a file, and check that its moments fit. Code in the file is not run.

    Args:
        path: the file.
        optimizer: the one that the state is for.

    Raises:
        TrainingError: the file is no optimizer's state, or is that of another optimizer.
    """
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


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give a sharded model's optimizer the state that `optimizer_state` gave, on every process."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
