"""A language model of others: its own files alone are loaded, and its configuration gets a model of real size."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.opened_files import opened
from trainers.errors import TrainingError
from trainers.model.loading import llm_config, load_llm, load_tokenizer

FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def llm(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder / "llama", tmp_path / "llm")


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(llm: Path, message: str) -> None:
    with pytest.raises(TrainingError, match=f"language model {llm}: {message}") as error:
        load_llm(str(llm))
    assert len(str(error.value).splitlines()) == 1


def test_only_the_files_of_the_model_are_opened(llm: Path, tmp_path: Path) -> None:
    (llm / "deep").mkdir()
    names = ("pytorch_model.bin", "model-00001-of-00001.safetensors", "modeling_evil.py", "consolidated.safetensors")
    for name in (*names, "tokenizer.4.0.json", "deep/model.safetensors"):
        (llm / name).write_bytes(b"never read")
    with opened(tmp_path) as files:
        load_llm(str(llm))
    assert {name.removeprefix("llm/") for name in files} <= FILES | {"chat_template.jinja"}
    with opened(tmp_path) as files:
        load_tokenizer(str(llm))
        llm_config(str(llm))
    assert "llm/model.safetensors" not in files


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_refused(llm: Path, name: str) -> None:
    (llm / name).write_text('{"base_model_name_or_path": "other/model", "peft_type": "LORA"}')
    refused(llm, f"its weights come with an adapter, {name}, which acsearch does not apply")


@pytest.mark.parametrize("name", ["shard.bin", "../outside.safetensors", "/tmp/outside.safetensors"])
def test_an_index_names_safetensors_of_its_folder_alone(llm: Path, name: str) -> None:
    table = load_file(llm / "model.safetensors")
    (llm / "model.safetensors").unlink()
    save_file(table, llm / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    (llm / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(table, "model-00001-of-00001.safetensors")})
    )
    load_llm(str(llm))
    if not name.startswith("/"):
        torch.save(table, llm / name) if name.endswith(".bin") else save_file(table, llm / name)
    (llm / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(table, name)}))
    refused(llm, r"its weights cannot be used: model.safetensors.index.json must have a weight_map to names")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoConfig": "evil.Config"}),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("transformers_weights", "other.safetensors"),
        ("_attn_implementation", "evil/kernel"),
        ("_attn_implementation", "flash_attention_2"),
        ("attn_implementation", {"": "evil/kernel"}),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", -1),
        ("hidden_size", 10**9),
        ("vocab_size", 10**9),
        ("num_labels", 10**9),
    ],
)
def test_what_a_configuration_must_not_ask_for_is_refused_by_name(llm: Path, key: str, value: Any) -> None:
    change(llm / "config.json", **{key: value})
    refused(llm, f"its weights cannot be used: .*config.json: '{key}' (is|has) ")
    with pytest.raises(TrainingError, match=f"'{key}' (is|has) "):
        llm_config(str(llm))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 256, "hidden_size": 2**16},
        {"hidden_size": 2**20},
        {"intermediate_size": 2**24},
        {"vocab_size": 2**24},
    ],
)
def test_a_model_that_its_files_cannot_hold_takes_no_memory(llm: Path, changes: dict[str, int]) -> None:
    change(llm / "config.json", **changes)
    refused(
        llm, r"its weights do not fit: their configuration describes [\d,]+ weights, and the files have [\d,]+ bytes"
    )


@pytest.mark.parametrize("key", ["auto_map", "init_inputs", "gguf_file"])
def test_what_a_tokenizers_configuration_must_not_ask_for(llm: Path, key: str) -> None:
    change(llm / "tokenizer_config.json", **{key: ["evil.Tokenizer", None]})
    refused(llm, f"its weights cannot be used: .*config.json: '{key}' (is|has) ")
    with pytest.raises(TrainingError, match=f"'{key}' (is|has) "):
        load_tokenizer(str(llm))


def test_a_tokenizers_configuration_opens_no_other_files(llm: Path, tmp_path: Path) -> None:
    expected = load_tokenizer(str(llm))("red blue green")["input_ids"]
    (tmp_path / "elsewhere").mkdir()
    names = ("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "added_tokens_file")
    for name in names:
        shutil.copy(llm / "tokenizer.json", tmp_path / "elsewhere" / name)
    change(llm / "tokenizer_config.json", **{name: str(tmp_path / "elsewhere" / name) for name in names})
    change(llm / "tokenizer_config.json", chat_template_file="x", model_max_length=10**30)
    with opened(tmp_path / "elsewhere") as files:
        assert load_tokenizer(str(llm))("red blue green")["input_ids"] == expected
    assert not files


def test_weights_that_are_not_finite_are_refused(llm: Path) -> None:
    table = load_file(llm / "model.safetensors")
    (name, *_) = sorted(table)
    table[name].view(-1)[-1] = float("nan")
    (llm / "model.safetensors").unlink()
    save_file(table, llm / "model.safetensors", metadata={"format": "pt"})
    refused(llm, f"its weights are broken: {name} has values that are not finite")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_none_neither_hangs_nor_crashes(llm: Path, name: str) -> None:
    (llm / name).unlink()
    os.mkfifo(llm / name)
    refused(llm, "")
    (llm / name).unlink()
    (llm / name).symlink_to(name)
    refused(llm, "")
