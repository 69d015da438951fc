"""Templates: golden tokens and labels, written out by hand, for a word-level tokenizer and for real kinds of them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from support import tiny
from trainers.data.templates import IGNORE_INDEX, IMAGE, IMAGE_ID, Turn, encode
from trainers.errors import DataError

X = IGNORE_INDEX
ASKED = Turn("user", "<image>\nwhat colour is the shape ?")
TALK = [ASKED, Turn("assistant", "red"), Turn("user", "what is it ?"), Turn("assistant", "it is a circle .")]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.tokenizer()


def test_plain(words: Any) -> None:
    coded = encode("plain", TALK[:2], words, images=1)
    assert coded.input_ids.tolist() == [1, IMAGE_ID, 5]
    assert coded.labels.tolist() == [X, X, 5]
    without = encode("plain", [Turn("user", "what is it ?"), Turn("assistant", "a big circle")], words)
    assert without.input_ids.tolist() == [1, 4, 18, 8]
    assert without.labels.tolist() == [X, 4, 18, 8]


def test_chat(words: Any) -> None:
    coded = encode("chat", TALK, words, images=1)
    first = [20, IMAGE_ID, 10, 11, 12, 13, 14, 15, 21], [5, 2]
    second = [20, 10, 12, 16, 15, 21], [16, 12, 4, 8, 17, 2]
    assert coded.input_ids.tolist() == [*first[0], *first[1], *second[0], *second[1]]
    assert coded.labels.tolist() == [*[X] * 9, *first[1], *[X] * 6, *second[1]]


@pytest.mark.parametrize("template", ["plain", "vicuna_v1", "chat"])
def test_a_prompt_is_how_the_same_conversation_begins(words: Any, template: str) -> None:
    """What is asked in evaluation is what was seen in training, up to the reply."""
    asked, answered = (encode(template, said, words, images=1) for said in ([ASKED], TALK[:2]))
    before = (answered.labels != IGNORE_INDEX).argmax()
    assert asked.input_ids.tolist() == answered.input_ids[:before].tolist()
    assert (asked.labels == IGNORE_INDEX).all()


def bpe(kind: str) -> Any:
    """A tokenizer as language models have it. kind: byte_level, which has no token " it" here, llama, or llama_2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    if kind == "byte_level":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{SYSTEM} USER: what\ncolour ? ASSISTANT: red bleu é", "it is blue", "it is"]
    inner.train_from_iterator([text for text in texts for _ in range(3)], trainer)
    if kind == "llama_2":  # its normalizer puts a space before every piece of text between special tokens
        inner.pre_tokenizer = None
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = CHATML
    return made


def runs(template: str, tokenizer: Any, turns: list[Turn]) -> list[tuple[bool, str]]:
    """Successive tokens that are learnt, or not, as they are written in the vocabulary."""
    coded = encode(template, turns, tokenizer, images=1)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(coded.input_ids, coded.labels, strict=True))
    written = [IMAGE if token == IMAGE_ID else tokenizer.convert_ids_to_tokens(int(token)) for token in coded.input_ids]
    marked = zip((coded.labels != IGNORE_INDEX).tolist(), written, strict=True)
    return [(learnt, "".join(token for _, token in run)) for learnt, run in groupby(marked, key=lambda one: one[0])]


BLUE = [
    Turn("user", "<image>\nwhat colour ?"),
    Turn("assistant", "bleu é"),
    Turn("user", "colour ?"),
    Turn("assistant", "it is blue"),
]


@pytest.mark.parametrize(
    ("kind", "space", "begin", "after_image", "after_end"),
    [("byte_level", "Ġ", "", "Ċ", ""), ("llama", "▁", "▁", "▁\n", ""), ("llama_2", "▁", "▁", "▁\n", "▁")],
)
def test_vicuna_as_llava_masks_it(kind: str, space: str, begin: str, after_image: str, after_end: str) -> None:
    """Replies, with the space before them, and their </s>; nothing else."""
    accent = "Ã©" if kind == "byte_level" else "é"  # two bytes
    expected = [
        (False, f"<s>{begin}{SYSTEM} USER: {IMAGE}{after_image}what colour ? ASSISTANT:"),
        (True, f" bleu {accent}</s>"),
        (False, f"{after_end}USER: colour ? ASSISTANT:"),
        (True, " it is blue</s>"),
    ]
    assert runs("vicuna_v1", bpe(kind), BLUE) == [(learnt, text.replace(" ", space)) for learnt, text in expected]


def test_chatml_as_qwen_writes_it() -> None:
    line = "<|im_start|>assistantĊ"
    assert runs("chat", bpe("byte_level"), BLUE) == [
        (False, f"<|im_start|>userĊ{IMAGE}ĊwhatĠcolourĠ?<|im_end|>Ċ{line}"),
        (True, "bleuĠÃ©<|im_end|>Ċ"),
        (False, f"<|im_start|>userĊcolourĠ?<|im_end|>Ċ{line}"),
        (True, "itĠisĠblue<|im_end|>Ċ"),
    ]


def test_what_cannot_be_written_is_refused(words: Any) -> None:
    def fails(message: str, template: str, turns: list[Turn], tokenizer: Any = words) -> None:
        with pytest.raises(DataError, match=message):
            encode(template, turns, tokenizer)

    fails("no template 'v1'; there are plain, vicuna_v1, chat", "v1", TALK)
    fails("turn 1 is the assistant's; .* user first", "chat", TALK[1:])
    fails("turn 2 is the user's", "vicuna_v1", [ASKED, ASKED])
    plain = tiny.tokenizer()
    plain.chat_template = None
    fails("the tokenizer has no chat template; choose plain or vicuna_v1", "chat", TALK, plain)
    plain.eos_token = None
    fails("no end-of-sequence token", "vicuna_v1", TALK, plain)
    plain.chat_template = "{% for m in messages[-2:] %}{{ m.role }}: {{ m.content }} {% endfor %}"
    fails("rewrites earlier turns", "chat", TALK, plain)
    slow = type("SlowTokenizer", (), {"is_fast": False})()
    fails("SlowTokenizer is a slow tokenizer without offsets", "plain", TALK, slow)
