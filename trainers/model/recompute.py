"""How layers are run: activations computed again going backward in place of being kept, and compiled by torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from trainers.job import Recompute
from trainers.model.multimodal import without_future_warnings

_aten = torch.ops.aten
# Products and attention: most of the time, and less than half of the memory
_KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def enable_recompute(llm: Any, kind: Recompute) -> None:
    """Have a language model's layers compute activations again.

    Args:
        llm: the language model.
        kind: none, selective (all but products and attention), or full.
    """
    if kind == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    with without_future_warnings():
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def compile_layers(llm: Any) -> None:
    """Have torch compile each layer of a language model; lengths may differ from batch to batch."""
    blocks = set(llm._no_split_modules or ())
    for module in llm.modules():
        if type(module).__name__ in blocks:
            module.compile(dynamic=True)


def _policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    attention = str(operation).startswith("torch_attn._varlen_attn")
    kept = operation in _KEPT or attention
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
