"""Tokenizers of older models, as Vicuna's: their repositories have sentencepiece's file alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece

from trainers.data.templates import IGNORE_INDEX, Turn, encode
from trainers.model.loading import load_tokenizer

TEXT = """a red circle is on the blue square .
what colour is the shape ? it is green .
USER: hello ASSISTANT: the small big circle
def colour(x):  return x
"""


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of lmsys/vicuna-7b-v1.5 that make its tokenizer, with a small vocabulary."""
    folder, model = tmp_path_factory.mktemp("vicuna"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 50),
        model_writer=model,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files = {
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        "special_tokens_map.json": special | {"pad_token": "<unk>"},
        "tokenizer_config.json": special
        | {
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "model_max_length": 4096,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


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
