"""Initial weights with which a small Llama learns soon to look things up in its context.

To answer from its context, a transformer must learn heads that look at the token before, and heads that look for tokens
like the one at hand. That takes more text than one core can read in a few minutes. So some heads start that way, and
are trained further with all others.

Sources: mimetic initialisation (arXiv 2305.09828), induction heads (arXiv 2209.11895).
"""

from __future__ import annotations

from typing import Any

import torch

_FREQUENCIES = 4  # of the rotary code, the fastest: they tell neighbours apart
_SHARPNESS = 20.0  # logit of the token that is looked back at
_LIKENESS = 0.07  # deviation of the weights of heads that look for their like
_COPY = 0.08  # what they add of what they find, against a unit vector


@torch.no_grad()
def init_induction_heads(model: Any, generator: torch.Generator) -> None:
    """Initialise half of the heads of a LlamaForCausalLM, in place.

    Those of the first layer look one and two tokens back; those of the other layers find tokens like the one at hand.

    Args:
        model: a LlamaForCausalLM.
        generator: of the random numbers.
    """
    embeddings = model.get_input_embeddings().weight
    shared = torch.randn(embeddings.shape[1], generator=generator)
    shared /= shared.norm()
    embeddings += shared * embeddings.norm(dim=1).mean()  # a direction that every token has: what looking back goes by
    first, *others = [layer.self_attn for layer in model.model.layers]
    heads = model.config.num_attention_heads // 2
    for head in range(heads):
        _look_back(first, head, head + 1, shared, model.model.rotary_emb.inv_freq)
    for attention in others:
        for head in range(heads):
            _look_for_like(attention, head, generator)


def _look_back(attention: Any, head: int, distance: int, shared: torch.Tensor, frequencies: torch.Tensor) -> None:
    """Attend to the token at a distance before: the rotary embedding turns the key of that token onto the query."""
    size = attention.head_dim
    rows = slice(head * size, (head + 1) * size)
    component = 0.5**0.5 * len(shared) ** 0.5  # of a normalised token along `shared`
    amplitude = (_SHARPNESS * size**0.5 / _FREQUENCIES) ** 0.5 / component
    query, key = torch.zeros(size), torch.zeros(size)
    angles = distance * frequencies[:_FREQUENCIES]
    query[:_FREQUENCIES] = amplitude
    key[:_FREQUENCIES] = amplitude * angles.cos()
    key[size // 2 : size // 2 + _FREQUENCIES] = amplitude * angles.sin()
    attention.q_proj.weight[rows] = torch.outer(query, shared)
    attention.k_proj.weight[rows] = torch.outer(key, shared)


def _look_for_like(attention: Any, head: int, generator: torch.Generator) -> None:
    """Attend to similar tokens: queries and keys have the same weights, and the output copies the token found."""
    size = attention.head_dim
    rows = slice(head * size, (head + 1) * size)
    width = attention.q_proj.in_features
    attention.q_proj.weight[rows] = _LIKENESS * torch.randn(size, width, generator=generator)
    attention.k_proj.weight[rows] = attention.q_proj.weight[rows]
    attention.v_proj.weight[rows] = torch.randn(size, width, generator=generator) / size**0.5
    attention.o_proj.weight[:, rows] = _COPY * attention.v_proj.weight[rows].T * (size / width)
