"""Tokenizers of older models, as Vicuna's: their repositories have sentencepiece's file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

from support.vicuna import write_tokenizer
from trainers.data.templates import IGNORE_INDEX, Turn, encode
from trainers.model.loading import load_tokenizer


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("vicuna"))


def test_it_gives_what_sentencepiece_gives(vicuna: Path) -> None:
    tokenizer = load_tokenizer(str(vicuna))
    expected = sentencepiece.SentencePieceProcessor(model_file=str(vicuna / "tokenizer.model"))
    assert tokenizer.is_fast
    for text in ("a red circle", "what é ? 世界", "two  spaces   three", "a\nb", "USER: hello ASSISTANT: it is green"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == expected.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer("a red")["input_ids"][0] == tokenizer.bos_token_id == expected.bos_id()


def test_what_is_learnt_with_it_is_the_reply_and_its_end(vicuna: Path) -> None:
    tokenizer = load_tokenizer(str(vicuna))
    turns = [Turn("user", "what colour is it ?"), Turn("assistant", "it is green .")]
    found = encode("vicuna_v1", [*turns, *turns], tokenizer)
    learnt = found.input_ids[found.labels != IGNORE_INDEX].tolist()
    assert tokenizer.decode(learnt).split() == ["it", "is", "green", ".</s>", "it", "is", "green", ".</s>"]
    assert learnt.count(tokenizer.eos_token_id) == 2
    assert found.input_ids[0] == tokenizer.bos_token_id
