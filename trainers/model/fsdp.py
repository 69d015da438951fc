"""Weights, gradients and optimizer spread over processes (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Groups = list[dict[str, Any]]


def shard(model: nn.Module, groups: Groups, processes: int, device: torch.device, half: bool) -> Groups:
    """Shard a model in place, the same way on GPUs and on CPUs.

    Each of the language model's blocks is gathered by itself, and so are its embeddings and its output layer. What is
    trained before the language model is gathered at the start, since a process whose samples are text alone does not
    run it. Encoders and connectors that are frozen stay whole: gathering them would cost more than it saves.

    Args:
        model: the multimodal model.
        groups: the optimizer's parameter groups.
        processes: that share the model.
        device: of this process.
        half: whether to compute in bf16; trained weights, gradients and their sums stay float32.

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
    embeddings, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    if embeddings.weight is head.weight:
        fully_shard([embeddings, head], mesh=mesh, mp_policy=policy)
    else:
        fully_shard(embeddings, mesh=mesh, mp_policy=policy)
        fully_shard(head, mesh=mesh, mp_policy=policy, reshard_after_forward=False)  # backward begins with it
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=_frozen_before(model))
    weights = dict(model.named_parameters())
    return [{**group, "params": [weights[name] for name in own]} for group, own in zip(groups, kept, strict=True)]


def _frozen_before(model: nn.Module) -> set[nn.Parameter]:
    """The weights of parts before the language model in which nothing is trained."""
    parts = [part for name, part in model.named_children() if name != "llm"]
    frozen = [part for part in parts if not any(weight.requires_grad for weight in part.parameters())]
    return {weight for part in frozen for weight in part.parameters()}


def accumulate_here(model: nn.Module, whole: bool) -> None:
    """Whether the next backward pass of a sharded model keeps its whole gradients for the one after it.

    They are then spread over the processes once for all, but take their whole memory until then.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not whole)
        model.set_is_last_backward(not whole)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor itself; a sharded one is gathered from all processes, which must all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assign(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Set a weight from a whole tensor. A sharded weight takes its part of it."""
    with torch.no_grad():
        if isinstance(weight, DTensor):
            value = distribute_tensor(value.to(weight.device, weight.dtype), weight.device_mesh, weight.placements)
        weight.copy_(value)
