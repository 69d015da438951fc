"""Ask a model: greedy answers to prompts, each about its images and videos if it has some.

Only prompts of equal length share a batch, so nothing is padded. In fp32 answers are then the same in any company. In
bf16 two tokens are often equally likely up to rounding, and how sums are rounded depends on the shape of a batch: of
192 answers of 16 tokens by a random Llama on a CPU, batches of 16 changed 4, and 21 where they were padded on the left.
So whoever has many questions asks those of equal length together, see `prompt_length` of `MultimodalModel`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from trainers.data.batch import Batch
from trainers.data.templates import IGNORE_INDEX, IMAGE, IMAGE_ID, Turn, encode
from trainers.errors import TrainingError

if TYPE_CHECKING:
    from trainers.model.multimodal import MultimodalModel

# What a prompt is about: nothing, an image, or several images and videos, each of these the frames that are shown
Shown = Image.Image | Sequence[Image.Image | Sequence[Image.Image]] | None
Visuals = list[tuple[Image.Image, ...]]  # the same in one form


@torch.inference_mode()
def generate(
    model: MultimodalModel,
    images: Sequence[Shown],
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """See `MultimodalModel.generate`."""
    from transformers import GenerationConfig

    shown = [visuals(one) for one in images]
    input_ids = [prompt_ids(model, prompt, own) for prompt, own in zip(prompts, shown, strict=True)]
    answers = [""] * len(prompts)
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=model.pad_id, eos_token_id=ends(model) or None
    )
    model.eval()
    for rows in _equal_lengths(input_ids, batch_size):
        batch = prompt_batch(model, [input_ids[row] for row in rows], [shown[row] for row in rows])
        inputs = model.llm_inputs(batch)
        new = model.llm.generate(**inputs, attention_mask=batch.attention_mask, generation_config=greedy)
        texts = model.tokenizer.batch_decode(new, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text.strip()
    return answers


def ends(model: MultimodalModel) -> list[int]:
    """Tokens that end a reply: the tokenizer's, the language model's own, and the template's where it has one."""
    reply = encode(model.template, [Turn("user", "a"), Turn("assistant", "a")], model.tokenizer).labels.tolist()
    closing = [token for token in reply if token in model.tokenizer.all_special_ids]
    own = model.llm.generation_config.eos_token_id
    found = [model.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]), *closing[-1:]]
    return sorted({end for end in found if end is not None})


def visuals(shown: Shown) -> Visuals:
    """What a prompt is about, in one form: images, each alone, and the frames of videos."""
    if shown is None:
        return []
    if isinstance(shown, Image.Image):
        return [(shown,)]
    return [(one,) if isinstance(one, Image.Image) else tuple(one) for one in shown]


def prompt_ids(model: MultimodalModel, prompt: str, shown: Visuals) -> list[int]:
    """The token ids of a prompt, as many of them IMAGE_ID as its images take positions.

    Raises:
        TrainingError: the prompt has another number of `<image>` than images.
    """
    turn = Turn("user", prompt_text(prompt, shown))
    input_ids = encode(model.template, [turn], model.tokenizer, images=len(shown)).input_ids.tolist()
    return expand(model, input_ids, prompt, shown)


def prompt_text(prompt: str, shown: Visuals) -> str:
    """What the user says: where a prompt does not say where its images are, they come first."""
    return f"{' '.join([IMAGE] * len(shown))}\n{prompt}" if shown and IMAGE not in prompt else prompt


def expand(model: MultimodalModel, input_ids: list[int], prompt: str, shown: Visuals) -> list[int]:
    """Token ids with as many IMAGE_ID in place of one as its image takes positions.

    Raises:
        TrainingError: they have another number of `<image>` than images.
    """
    if (found := input_ids.count(IMAGE_ID)) != len(shown):
        images = "image" if len(shown) == 1 else "images"
        raise TrainingError(f"a prompt with {found} {IMAGE} for {len(shown)} {images}: {prompt[:80]!r}")
    counts = iter([model.positions(model.vision.framing.layout(*own[0].size, len(own))) for own in shown])
    return [one for i in input_ids for one in [i] * (next(counts) if i == IMAGE_ID else 1)]


def prompt_batch(model: MultimodalModel, input_ids: Sequence[Sequence[int]], shown: Sequence[Visuals]) -> Batch:
    """Prompts of one length with their images."""
    own = torch.tensor(input_ids, dtype=torch.long)
    images = [one for row in shown for one in row]
    seen = model.vision.look(images) if images else None
    counts = [model.positions(layout) for layout in seen.layouts] if seen else []
    places = torch.full_like(own, -1)
    places[own == IMAGE_ID] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
    return Batch(
        names=(),
        input_ids=own,
        labels=torch.full_like(own, IGNORE_INDEX),
        attention_mask=torch.ones_like(own),
        places=places,
        seen=seen,
    ).to(model.device)


def _equal_lengths(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows of equal length, at most `batch_size` together."""
    groups: dict[int, list[int]] = {}
    for row, one in enumerate(ids):
        groups.setdefault(len(one), []).append(row)
    for _, rows in sorted(groups.items()):
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
