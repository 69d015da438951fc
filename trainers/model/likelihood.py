"""How likely given replies to prompts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as functional

from trainers.data.templates import IGNORE_INDEX, Turn, encode
from trainers.errors import TrainingError
from trainers.model.generation import Shown, Visuals, ends, expand, prompt_batch, prompt_text, visuals
from trainers.model.loss import supervised_logits

if TYPE_CHECKING:
    from trainers.model.multimodal import MultimodalModel


@torch.inference_mode()
def log_likelihood(
    model: MultimodalModel,
    images: Sequence[Shown],
    prompts: Sequence[str],
    replies: Sequence[str],
    batch_size: int,
) -> list[tuple[float, bool]]:
    """See `MultimodalModel.log_likelihood`."""
    shown = [visuals(one) for one in images]
    asked = zip(shown, prompts, replies, strict=True)
    coded = [_coded(model, own, prompt, reply) for own, prompt, reply in asked]
    order = sorted(range(len(coded)), key=lambda row: -len(coded[row][0]))  # memory runs out early or never
    found: list[tuple[float, bool]] = [(0.0, False)] * len(coded)
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = len(coded[rows[0]][0])
        batch = prompt_batch(
            model,
            [coded[row][0] + [model.pad_id] * (longest - len(coded[row][0])) for row in rows],
            [shown[row] for row in rows],
        )
        labels = batch.labels.clone()
        for place, row in enumerate(rows):
            own = coded[row][1]
            labels[place, : len(own)] = torch.tensor(own, device=labels.device)
        # without a mask of attention: padding is on the right, where what is causal does not look
        logits, targets = supervised_logits(model.llm, labels, **model.llm_inputs(batch))
        values = -functional.cross_entropy(logits.float(), targets, reduction="none").double()
        greedy = logits.argmax(-1) == targets
        counts = [sum(one != IGNORE_INDEX for one in coded[row][1]) for row in rows]
        for row, value, hit in zip(rows, torch.split(values, counts), torch.split(greedy, counts), strict=True):
            found[row] = float(value.sum()), bool(hit.all())
    return found


def _coded(model: MultimodalModel, shown: Visuals, prompt: str, reply: str) -> tuple[list[int], list[int]]:
    """The token ids of a prompt and its reply, and labels: those of the reply up to what ends it, which is not scored.

    Raises:
        TrainingError: the reply has no token, or the prompt another number of `<image>` than images.
    """
    turns = [Turn("user", prompt_text(prompt, shown)), Turn("assistant", reply)]
    tokens = encode(model.template, turns, model.tokenizer, images=len(shown))
    labels = tokens.labels.copy()
    closing = np.flatnonzero(np.isin(labels, ends(model)))
    if len(closing):
        labels[closing[0] :] = IGNORE_INDEX
    if not (labels != IGNORE_INDEX).any():
        raise TrainingError(f"a reply without a token: {reply[:80]!r}")
    input_ids = expand(model, tokens.input_ids.tolist(), prompt, shown)
    shift = len(input_ids) - len(labels)  # positions that the images take, before any of the reply
    return input_ids, [IGNORE_INDEX] * shift + labels.tolist()
