"""What configurations may ask for: all that real models do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from support import ROOT
from trainers.errors import WeightsError
from trainers.pretrained.configuration import make_config, parse_configuration


@pytest.mark.slow
def test_no_model_that_transformers_knows_is_refused() -> None:
    refused, known = {}, 0
    for kind in CONFIG_MAPPING_NAMES:
        try:
            content = json.dumps(transformers.AutoConfig.for_model(kind).to_dict(), default=str).encode()
        except Exception:  # without defaults, or of a library that is not here
            continue
        known += 1
        try:
            parse_configuration(content)
        except WeightsError as error:
            refused[kind] = str(error)
    assert known > 300
    assert not refused


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("studies/micro/weights/*/config.json")), ids=lambda path: path.parent.name
)
def test_the_micro_studys_models_are_taken(path: Path) -> None:
    assert parse_configuration(path.read_bytes()) == json.loads(path.read_text())


def test_the_largest_models_are_taken() -> None:
    """Llama 4's positions, a LLaVA's layer counted from the end, 21,000 classes, infinity, and Qwen's rope_theta."""
    labels = {str(number): f"class {number}" for number in range(21_841)}
    taken = {
        "model_type": "llama",
        "num_hidden_layers": 126,
        "hidden_size": 16_384,
        "vocab_size": 262_208,
        "max_position_embeddings": 10_485_760,
        "rope_theta": 1_000_000_000,
        "vision_feature_layer": -2,
        "num_local_experts": 2_048,
        "id2label": labels,
        "label2id": {name: int(number) for number, name in labels.items()},
        "quantization_config": None,
    }
    config = make_config(parse_configuration(json.dumps(taken | {"time_step_limit": [0.0, float("inf")]}).encode()))
    assert config.hidden_size == 16_384
    assert config.name_or_path == ""


def test_what_tokenizers_say_is_no_size() -> None:
    content = b'{"model_max_length": 1000000000000000019884624838656, "init_inputs": []}'
    assert parse_configuration(content, sizes=False)["model_max_length"] > 10**30
