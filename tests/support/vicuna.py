"""The tokenizer of an older model, as Vicuna's: its repository has sentencepiece's file alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece

TEXT = """a red circle is on the blue square .
what colour is the shape ? it is green .
USER: hello ASSISTANT: the small big circle
def colour(x):  return x
"""


def write_tokenizer(folder: Path) -> Path:
    """The files of lmsys/vicuna-7b-v1.5 that make its tokenizer, with a small vocabulary."""
    model = io.BytesIO()
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
