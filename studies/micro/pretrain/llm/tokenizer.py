"""The LLM's tokenizer: one token for each word of the world, and a chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from studies.micro import world

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
USER, ASSISTANT = "user:", "assistant:"
CHAT_TEMPLATE = (
    "{{ bos_token }} "
    "{% for message in messages %}"
    "{% if message.role == 'user' %}user: {{ message.content }} "
    "{% else %}assistant: {{ message.content }} </s> {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_tokenizer(longest: int) -> Any:
    """Make a PreTrainedTokenizerFast that splits at white space alone, so pieces of a text tokenise as the whole does.

    Args:
        longest: the most positions that the model takes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = (PAD, BEGIN, END, UNKNOWN, USER, ASSISTANT)
    words = {word: number for number, word in enumerate((*special, *world.vocabulary()))}
    core = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # words joined by spaces
    core.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=longest,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def word_ids(longest: int) -> tuple[int, Callable[[Sequence[str]], torch.Tensor]]:
    """Word ids for text towers.

    Args:
        longest: words after which a text is cut.

    Returns:
        How many ids there are, and a function from B texts to (B, T) ids, with 0 for padding.
    """
    numbers = {word: number + 1 for number, word in enumerate(world.vocabulary())}

    def ids(texts: Sequence[str]) -> torch.Tensor:
        rows = [[numbers[word] for word in text.split()[:longest]] for text in texts]
        table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, words in zip(table, rows, strict=True):
            row[: len(words)] = torch.tensor(words)
        return table

    return len(numbers) + 1, ids
