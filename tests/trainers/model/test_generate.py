"""Greedy answers that do not depend on the company of a question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import tiny
from support.tiny_models import ALL, parts
from trainers.errors import TrainingError
from trainers.model.generation import ends, prompt_batch, prompt_ids, visuals
from trainers.model.loading import build_model
from trainers.model.multimodal import MultimodalModel


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@pytest.fixture(scope="module")
def questions() -> tuple[list[Any], list[str]]:
    """Of different lengths, every third without an image."""
    texts = ["what is it ?", "what colour is the shape ?", "a big", "is it red . what is the circle ?"]
    colours = list(tiny.COLOURS)
    images = [None if i % 3 == 2 else tiny.picture(colours[i % 3], i, (40, 30 + i)) for i in range(17)]
    return images, [texts[i % 4] for i in range(17)]


def scramble(model: MultimodalModel) -> MultimodalModel:
    """With larger weights, so that a random model says different things of different images."""
    generator = torch.Generator().manual_seed(0)
    for part in (model.connector, model.llm):
        for weight in part.parameters():
            if weight.ndim > 1:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_answers_do_not_depend_on_the_company(folder: Path, llm: str, questions: Any) -> None:
    model = scramble(build_model(parts(folder, ALL, llm)))
    images, prompts = questions
    before = torch.get_rng_state()
    expected = model.generate(images, prompts, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(expected)) > 8
    for size in (1, 3, 16):
        assert model.generate(images, prompts, 6, batch_size=size) == expected
    for row in range(0, 17, 5):
        assert model.generate(images[row : row + 1], prompts[row : row + 1], 6) == expected[row : row + 1]
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1)).tolist()
    mixed = model.generate([images[i] for i in order], [prompts[i] for i in order], 6)
    assert mixed == [expected[i] for i in order]


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_answers_are_greedy(folder: Path, llm: str, questions: Any) -> None:
    """The likeliest token after all that was said, found without a cache of keys and values; then </s>."""
    model = scramble(build_model(parts(folder, "clip@32", llm)))
    images, prompts = questions
    ended = 0
    for image, prompt, answer in zip(images, prompts, model.generate(images, prompts, 12), strict=True):
        shown = visuals(image)
        ids = prompt_ids(model, prompt, shown)
        said: list[int] = []
        while len(said) < 12 and said[-1:] != [2]:
            batch = prompt_batch(model, [ids + said], [shown])
            with torch.no_grad():
                logits = model.llm(**model.llm_inputs(batch), attention_mask=batch.attention_mask).logits
            said.append(int(logits[0, -1].argmax()))
        ended += said[-1] == 2
        assert model.tokenizer.decode(said, skip_special_tokens=True).strip() == answer
    assert ended < 17
    assert ended or llm == "qwen2"


def test_how_a_language_model_was_sampled_by_its_makers_does_not_matter(folder: Path, questions: Any) -> None:
    copy = folder / "sampled"
    shutil.copytree(folder / "qwen2", copy)
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 5.0}
    (copy / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 17], "max_length": 9}))
    plain, sampled = (scramble(build_model(parts(folder, "clip@32", llm))) for llm in ("qwen2", "sampled"))
    images, prompts = questions
    expected = [answer.split(" .")[0].removesuffix(".") for answer in plain.generate(images, prompts, 12)]
    found = [answer.removesuffix(" .").removesuffix(".") for answer in sampled.generate(images, prompts, 12)]
    assert found == expected  # up to its second end, the full stop
    assert any("." in answer for answer in plain.generate(images, prompts, 12))


def test_the_templates_own_end_ends_a_reply(folder: Path) -> None:
    """A base model's tokenizer may have one end of text, and its chat template another."""
    model = build_model(parts(folder))
    assert ends(model) == [2]
    ended = build_model(parts(folder))
    ended.tokenizer.add_special_tokens({"additional_special_tokens": ["small"]})
    ended.tokenizer.chat_template = tiny.CHAT.replace("</s>", " small ")
    assert ends(ended) == [2, ended.tokenizer.convert_tokens_to_ids("small")]
    plain = build_model(parts(folder, template="plain"))
    assert ends(plain) == [2]


def test_a_prompt_has_as_many_images_as_it_shows(folder: Path) -> None:
    model = build_model(parts(folder))
    image = tiny.picture("red", 0)
    assert model.generate([image], ["<image>\nwhat is it ?"], 4) == model.generate([image], ["what is it ?"], 4)
    assert prompt_ids(model, "<image> what", []) == prompt_ids(model, "unknown what", [])
    with pytest.raises(TrainingError, match="a prompt with 2 <image> for 1 image"):
        model.generate([image], ["<image> <image> what"], 4)


def test_a_prompts_length_is_that_of_its_positions(folder: Path, questions: Any) -> None:
    """By it whoever asks finds the questions that share a batch."""
    model = build_model(parts(folder, ALL))
    words = [model.prompt_length(None, prompt) for prompt in ("what is it ?", "what colour is the shape ?")]
    assert words[1] - words[0] == 2
    assert model.prompt_length(tiny.picture("red", 0), "what is it ?") == words[0] + 4
