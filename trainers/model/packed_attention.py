"""Causal attention within each sample of a packed row, as an attention implementation of transformers.

On a GPU in half precision it is torch's variable-length flash attention; elsewhere one call of sdpa for each sample.
Language models for which transformers chooses something else than sdpa, since they cap the scores or have sinks, keep
it: transformers then builds a block mask from the restarted positions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from trainers.errors import TrainingError

_NAME = "packed"
_KNOWN = {"full_attention", "sliding_attention"}  # kinds of layers; others, such as chunks, are known to masks alone


def prepare_packing(llm: Any) -> None:
    """Let a language model attend within the samples of a packed row, without a mask where it can."""
    from transformers import AttentionInterface

    config = llm.config
    kinds = set(getattr(config, "layer_types", None) or ())
    if config._attn_implementation != "sdpa" or getattr(config, "attention_dropout", 0.0) or kinds - _KNOWN:
        return
    AttentionInterface.register(_NAME, _attention)  # an implementation that transformers makes no mask for
    llm.set_attn_implementation(_NAME)


def packed_inputs(position_ids: Tensor | None) -> dict[str, Any]:
    """What a language model has to be told of a packed row, and nothing of any other batch.

    Args:
        position_ids: (1, T) places of the tokens in their own samples.
    """
    if position_ids is None:
        return {}
    starts = (position_ids[0] == 0).nonzero().squeeze(1)
    bounds = functional.pad(starts, (0, 1), value=position_ids.shape[1]).to(torch.int32)
    longest = int(bounds.diff().max())
    lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    return {"position_ids": position_ids, **lengths}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """(1, heads, T, width) queries, keys and values give (1, T, heads, width)."""
    bounds, window = given.get("cu_seq_lens_q"), given.get("sliding_window")
    if (
        bounds is None
        or attention_mask is not None
        or dropout
        or given.get("softcap")
        or given.get("s_aux") is not None
    ):
        raise TrainingError(f"samples cannot be packed for {type(module).__name__}; leave pack out")
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotary embeddings are in single precision
    if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, bounds, given["max_length_q"], scaling, window), None
    samples = [torch.split(one, bounds.diff().tolist(), dim=2) for one in (query, key, value)]
    parts = [
        functional.scaled_dot_product_attention(
            q, k, v, _window_mask(q, window), scale=scaling, is_causal=not _cuts(q, window), enable_gqa=True
        )
        for q, k, v in zip(*samples, strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """Flash attention over all samples in one call."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (one.squeeze(0).transpose(0, 1).contiguous() for one in (query, key, value))  # (T, heads, width)
    seen = (-1 if window is None else window - 1, 0)
    made = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=seen, enable_gqa=k.shape[1] < q.shape[1]
    )
    assert isinstance(made, Tensor)
    return made.unsqueeze(0)


def _cuts(query: Tensor, window: int | None) -> bool:
    return window is not None and query.shape[2] > window


def _window_mask(query: Tensor, window: int | None) -> Tensor | None:
    """(T, T) what a token sees through a sliding window; None where that is all before it."""
    if window is None or not _cuts(query, window):
        return None
    length = query.shape[2]
    whole = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return whole.tril() & whole.triu(1 - window)
