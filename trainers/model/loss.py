"""Cross-entropy of a causal language model at the supervised positions only, in pieces where the vocabulary is large.

Text is mostly prompt and image: the output layer sees the hidden states of exactly the (sample, position) pairs whose
next token is learnt. It is reached through the language model's own forward, so that FSDP gathers its weights and an
architecture's own steps behind it (Gemma's soft cap, the scales of Cohere and Granite) happen as they always do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from trainers.data.templates import IGNORE_INDEX

WHOLE = 2**24  # logits up to which they are held at once; more of them are made and forgotten in pieces


def summed_loss(llm: Any, labels: Tensor, plain: bool, **inputs: Any) -> Tensor:
    """The sum of the cross-entropies of all supervised tokens.

    Args:
        llm: the causal language model.
        labels: (B, T) token ids that are learnt, and IGNORE_INDEX elsewhere.
        plain: whether its logits are its output layer's; see `plain_head`.
        inputs: the other arguments of the language model.
    """
    if not plain:
        logits, targets = supervised_logits(llm, labels, **inputs)
        return functional.cross_entropy(logits.float(), targets, reduction="sum")
    head = llm.get_output_embeddings()

    def loss(hidden: Tensor) -> Tensor:  # in the place of logits, so that FSDP gathers weights for its gradient too
        return _linear_loss(*_supervised(hidden, labels), head).reshape(1, 1, 1)

    with _forward(head, loss):
        value: Tensor = llm(**inputs, use_cache=False).logits.squeeze()
    return value


def supervised_logits(llm: Any, labels: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Logits (N, V) and targets (N,) of the N supervised tokens, sample by sample.

    Args:
        llm: the causal language model.
        labels: (B, T) token ids that are learnt, and IGNORE_INDEX elsewhere.
        inputs: the other arguments of the language model.
    """
    head, targets = llm.get_output_embeddings(), []
    layer = head.forward

    def few(hidden: Tensor) -> Tensor:
        chosen, wanted = _supervised(hidden, labels)
        targets.append(wanted)
        logits: Tensor = layer(chosen.unsqueeze(0))  # architectures expect three dimensions
        return logits

    with _forward(head, few):
        logits = llm(**inputs, use_cache=False).logits
    return logits.squeeze(0), targets[0]


def plain_head(llm: Any) -> bool:
    """Whether a language model's logits are what its output layer, an `nn.Linear`, gives for the last hidden states.

    It is seen by running the model's forward with nothing before and after that layer. Any other model keeps its own
    steps and is only spared the positions that are not supervised.
    """
    head, inner = llm.get_output_embeddings(), getattr(llm, llm.base_model_prefix, llm)
    if inner is llm or not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        return False
    from transformers.modeling_outputs import BaseModelOutputWithPast

    mark = head.weight.new_zeros(1, 1, head.in_features)
    hidden = BaseModelOutputWithPast(last_hidden_state=mark)
    with torch.no_grad(), _forward(inner, lambda *_, **__: hidden), _forward(head, lambda given: given):
        logits = llm(inputs_embeds=mark, use_cache=False).logits
    return logits is mark or (logits.shape == mark.shape and logits.data_ptr() == mark.data_ptr())


def _supervised(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (N, width) from which a supervised token is predicted, and these tokens (N,)."""
    following = labels[:, 1:]
    mask = following != IGNORE_INDEX
    return hidden[:, :-1][mask], following[mask]


def _linear_loss(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """The summed loss in float32, whatever precision the products have."""
    if len(targets) * head.out_features <= WHOLE:
        logits = functional.linear(hidden, head.weight, head.bias)
        return functional.cross_entropy(logits.float(), targets, reduction="sum")
    device = hidden.device.type
    half = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if half else head.weight.dtype
    losses = functional.linear_cross_entropy(
        hidden.to(dtype),  # the operation itself is none that autocast knows
        head.weight.to(dtype),
        targets,
        linear_bias=None if head.bias is None else head.bias.to(dtype),
        reduction="none",  # it would add up in bf16
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return losses.float().sum()


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Have a module compute something else for a while; its hooks run as always."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
