"""Conversation templates: a conversation in, token ids and labels out.

A template writes the conversation as one text and says which characters of it the model shall learn to say. Tokens are
then labelled by where they lie in that text, so no template counts tokens, and none can be off by one.

An image is one IMAGE_ID among the ids here; the collator puts as many positions there as the connector has tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainers.errors import DataError

IMAGE, VIDEO = "<image>", "<video>"
IMAGE_ID = -200
IGNORE_INDEX = -100

Tokenizer = Any  # a fast transformers tokenizer
_ROLES = ("user", "assistant")
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: user or assistant.
        text: with IMAGE where an image is shown.
    """

    role: str
    text: str


@dataclass(frozen=True, eq=False)
class Tokens:
    """A conversation as token ids.

    Attributes:
        input_ids: (T,) int64; an image is one IMAGE_ID.
        labels: (T,) int64; the ids that are learnt, and IGNORE_INDEX elsewhere.
    """

    input_ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Text:
    """A conversation as text.

    Attributes:
        text: with IMAGE where an image is shown.
        learnt: character ranges [begin, end) that are supervised.
        bos: whether the tokenizer's begin-of-sequence token comes first.
    """

    text: str
    learnt: tuple[tuple[int, int], ...]
    bos: bool


def _plain(turns: Sequence[Turn], tokenizer: Tokenizer) -> _Text:
    """Image and caption only, as LLaVA's first stage: what the user says is dropped but for the image."""
    shown = IMAGE * turns[0].text.count(IMAGE)
    caption = turns[1].text + "\n" if len(turns) > 1 else ""
    return _Text(shown + caption, ((len(shown), len(shown + caption)),), bos=True)


def _vicuna_v1(turns: Sequence[Turn], tokenizer: Tokenizer) -> _Text:
    """Vicuna's, as LLaVA-1.5's second stage: 'SYSTEM USER: .. ASSISTANT: ..</s>USER: .. ASSISTANT: ..</s>'.

    A prompt ends with the colon, so the space after it is learnt, whether it is a token or the beginning of one.
    """
    if tokenizer.eos_token is None:
        raise DataError("template vicuna_v1: the tokenizer has no end-of-sequence token to end replies with")
    text, learnt = _VICUNA_SYSTEM + " ", []
    for turn in turns:
        if turn.role == "user":
            text += f"USER: {turn.text} ASSISTANT:"
        else:
            begin = len(text)
            text += f" {turn.text}{tokenizer.eos_token}"
            learnt.append((begin, len(text)))
    return _Text(text, tuple(learnt), bos=True)


def _chat(turns: Sequence[Turn], tokenizer: Tokenizer) -> _Text:
    """The tokenizer's own. What a reply adds to the text before it, beyond the prompt for it, is learnt."""
    if not tokenizer.chat_template:
        raise DataError("template chat: the tokenizer has no chat template; choose plain or vicuna_v1")
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]

    def render(count: int, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompt))

    learnt = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            before, after = render(place, True), render(place + 1, False)
            if not after.startswith(before):
                raise DataError("template chat: the tokenizer's own rewrites earlier turns, so it can't be masked")
            learnt.append((len(before), len(after)))
    return _Text(render(len(turns), turns[-1].role == "user"), tuple(learnt), bos=False)


@dataclass(frozen=True)
class Template:
    """How a conversation is written.

    Attributes:
        write: makes the text of it.
        image_first: whether a single image is shown before everything else of its turn, wherever `<image>` stands in
            it. Several stay where they are, as in LLaVA-NeXT.
    """

    write: Callable[[Sequence[Turn], Tokenizer], _Text]
    image_first: bool = False


TEMPLATES = {
    "plain": Template(_plain, image_first=True),
    "vicuna_v1": Template(_vicuna_v1, image_first=True),
    "chat": Template(_chat),
}


def vicuna_system() -> str:
    """What every conversation of `vicuna_v1` begins with."""
    return _VICUNA_SYSTEM


def encode(template: str, turns: Sequence[Turn], tokenizer: Tokenizer, images: int = 0) -> Tokens:
    """Tokenise a conversation. One that ends with the user's turn becomes a prompt for the reply.

    Args:
        template: a key of `TEMPLATES`.
        turns: user and assistant in turn, the user first.
        tokenizer: a fast one, which knows the characters of each token.
        images: how many images the conversation is about. Without any, `<image>` is text like other text.

    Raises:
        DataError: the template is unknown, the turns do not alternate, or the tokenizer is a slow one.
    """
    if template not in TEMPLATES:
        raise DataError(f"no template {template!r}; there are {', '.join(TEMPLATES)}")
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__} is a slow tokenizer without offsets; use its fast form")
    for place, turn in enumerate(turns):
        if turn.role != _ROLES[place % 2]:
            raise DataError(f"turn {place + 1} is the {turn.role}'s; user and assistant must alternate, user first")
    if images == 1 and TEMPLATES[template].image_first:
        turns = [_image_first(turn) for turn in turns]
    written = TEMPLATES[template].write(turns, tokenizer)
    input_ids = [np.array([], dtype=np.int64)]
    learnt = [np.array([], dtype=bool)]

    def add(ids: Sequence[int], mask: np.ndarray | bool) -> None:
        input_ids.append(np.array(ids, dtype=np.int64))
        learnt.append(np.broadcast_to(mask, len(ids)))

    if written.bos and tokenizer.bos_token_id is not None:
        add([tokenizer.bos_token_id], False)
    start = 0
    for number, chunk in enumerate(written.text.split(IMAGE) if images else [written.text]):
        if number:
            add([IMAGE_ID], False)
            start += len(IMAGE)
        if chunk:
            coded = tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True)
            begin, end = start + np.array(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
            add(coded["input_ids"], np.any([(b < end) & (begin < e) for b, e in written.learnt], axis=0))
        start += len(chunk)
    ids, mask = np.concatenate(input_ids), np.concatenate(learnt)
    return Tokens(ids, np.where(mask, ids, IGNORE_INDEX))


def _image_first(turn: Turn) -> Turn:
    """LLaVA's `preprocess_multimodal`: one image and a new line, then what else is said."""
    return replace(turn, text=f"{IMAGE}\n{turn.text.replace(IMAGE, '').strip()}") if IMAGE in turn.text else turn
