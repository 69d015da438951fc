"""A whole study of real pretrained weights: SmolLM2-135M-Instruct and two EfficientNets, a few steps of each stage."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from support import real_weights, tiny
from trainers.model.loading import load_llm, load_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

STUDY = """
name: real
title: Real weights on the micro world
training:
  candidates: [lite0@160, lite0@160+lite2@160, untrained@160]
  encoders: [encoders.yaml]
  connector: pool@4
  llm: smollm2
  template: chat
  prepare:
    call: "studies.micro.data:prepare"
    sizes: {captions: 64, heldout: 8, instruct: 8, per_benchmark: 4, pairs: 60, pair_images: 24}
  alignment: {definition: A_ll, data: captions_heldout.parquet, samples: 8}
  correspondence: {definition: C, pairs: pairs}
  align:
    data: captions.parquet
    template: plain
    train: {connector: {mode: full, lr: 2e-3}}
    batch: 8
    micro_batch: 8
    longest: 200
    cache_features: true
  finetune:
    data: instruct.parquet
    template: chat
    train: {connector: {mode: full, lr: 2e-4}, llm: {mode: lora, lr: 2e-4, rank: 4, alpha: 8}}
    batch: 4
    micro_batch: 2
    longest: 300
    cache_features: true
  benchmarks: [micro_attribute, micro_existence]
  evaluation:
    batch_size: 8
    data: {micro_attribute: benchmarks/attribute.parquet, micro_existence: benchmarks/existence.parquet}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    real_weights.write_efficientnet("lite0", folder / "lite0")
    real_weights.write_efficientnet("lite2", folder / "lite2")
    real_weights.write_efficientnet("lite0", folder / "untrained", trained=False)
    real_weights.write_registry(folder, {"lite0": "lite0", "lite2": "lite2", "untrained": "lite0"})
    real_weights.write_smollm2(folder / "smollm2")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[str, Any]:
    """The study, searched and shown by the commands that users have."""

    def acsearch(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("acsearch")), *arguments]
        environment = os.environ | {"ACSEARCH_HOME": str(folder / "home")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    acsearch("study", "start", str(folder), "--budget", "1")
    found: dict[str, Any] = json.loads(acsearch("study", "show", "real", "--json"))
    return found


def stages(folder: Path, part: str) -> list[Path]:
    """The results of the stages whose last trained part is this one."""
    results = sorted((folder / "home" / "work" / "stages").glob("*/result"))
    return [one for one in results if part == list(json.loads((one / "model.json").read_text())["train"])[-1]]


def losses(result: Path) -> list[float]:
    return [json.loads(line)["metrics"]["loss"] for line in (result / "outbox.jsonl").read_text().splitlines()]


def test_the_language_model_knows_what_it_was_taught(folder: Path) -> None:
    llm, tokenizer = load_llm(str(folder / "smollm2"))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = llm.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def test_correspondence_is_high_where_the_encoder_was_trained(shown: dict[str, Any]) -> None:
    c = {row["representation"]: row["C"] for row in shown["candidates"]}
    assert min(c["lite0@160"], c["lite0@160+lite2@160"]) > 2 * c["untrained@160"] > 0
    assert c["lite0@160"] > 30


def test_every_connector_learns_to_show_pictures_to_the_language_model(folder: Path, shown: dict[str, Any]) -> None:
    connectors = stages(folder, "connector")
    assert len(connectors) == 3
    for result in connectors:
        first, *_, last = losses(result)
        assert last < first - 0.5  # nats of a token; it fell by 1.7 to 2.2 where this was written
    assert all(-6 < row["A"] < -1 for row in shown["candidates"])


def test_the_finetune_adapts_every_layer_and_is_evaluated(folder: Path, shown: dict[str, Any]) -> None:
    (result,) = stages(folder, "llm")
    assert all(map(math.isfinite, losses(result)))
    adapted = {name for name in load_file(result / "weights.safetensors") if "lora_A" in name}
    assert len(adapted) == 30 * 7
    (finetune,) = shown["finetunes"]
    assert Path(finetune["checkpoint"]) == result
    assert set(finetune["scores"]) == {"micro_attribute", "micro_existence"}
    answers = [json.loads(line) for line in (result.parent / "eval/samples/micro_existence.jsonl").open()]
    assert len(answers) == 4


def test_the_finetuned_model_answers_about_a_picture_and_still_knows_what_it_knew(
    folder: Path, shown: dict[str, Any]
) -> None:
    model = load_model(Path(shown["finetunes"][0]["checkpoint"]))
    questions = ["What is this?", "What is the capital of France?"]
    about_picture, known = model.generate([tiny.picture("red", 1), None], questions, 12)
    assert about_picture
    assert "Paris" in known
