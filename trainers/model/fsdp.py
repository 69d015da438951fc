"""Weights, gradients and optimizer spread over processes (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

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
