"""How likely replies are: against a computation by hand, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support import tiny
from support.tiny_models import ALL, parts
from trainers.errors import TrainingError
from trainers.model.generation import prompt_batch, prompt_ids, visuals
from trainers.model.loading import build_model
from trainers.model.multimodal import MultimodalModel


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


def scrambled(folder: Path, llm: str, template: str) -> MultimodalModel:
    model = build_model(parts(folder, ALL, llm, template))
    generator = torch.Generator().manual_seed(0)
    for weight in model.llm.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model


def by_hand(model: MultimodalModel, image: object, prompt: str, reply: str) -> tuple[float, bool]:
    """The product of the probabilities of the reply's words, each after all that was said before."""
    ids, total, greedy = prompt_ids(model, prompt, visuals(image)), 0.0, True
    for word in reply.split():
        batch = prompt_batch(model, [ids], [visuals(image)])
        with torch.no_grad():
            logits = model.llm(**model.llm_inputs(batch)).logits[0, -1].double().log_softmax(-1)
        token = model.tokenizer.convert_tokens_to_ids(word)
        total += float(logits[token])
        greedy &= int(logits.argmax()) == token
        ids = [*ids, token]
    return total, greedy


@pytest.mark.parametrize(("llm", "template"), [("llama", "chat"), ("qwen2", "chat"), ("llama", "vicuna_v1")])
def test_likelihoods_are_those_of_the_words(folder: Path, llm: str, template: str) -> None:
    """Of replies of one to four words, with and without images, in any batches."""
    model = scrambled(folder, llm, template)
    replies = ["red", "a big red circle", "square .", "blue", "it"]
    prompts = ["what is it ?", "what colour is the shape ?", "is it red . what is the circle ?", "a", "big"]
    images = [tiny.picture("red", 0), None, tiny.picture("blue", 1), tiny.picture("green", 2, (50, 30)), None]
    expected = [by_hand(model, *one) for one in zip(images, prompts, replies, strict=True)]
    for size in (1, 2, 8):
        found = model.log_likelihood(images, prompts, replies, batch_size=size)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_what_is_said_greedily_is_the_greedy_reply(folder: Path) -> None:
    model = scrambled(folder, "llama", "chat")
    image, prompt = tiny.picture("red", 0), "what is it ?"
    (answer,) = model.generate([image], [prompt], 3)
    assert answer
    first = answer.split()[0]
    (_, greedy), (_, other) = model.log_likelihood([image] * 2, [prompt] * 2, [first, "a" if first != "a" else "it"])
    assert (greedy, other) == (True, False)


def test_a_reply_has_a_token(folder: Path) -> None:
    model = build_model(parts(folder))
    with pytest.raises(TrainingError, match="a reply without a token: ''"):
        model.log_likelihood([None], ["a"], [""])
    with pytest.raises(TrainingError, match="a prompt with 2 <image> for 1 image"):
        model.log_likelihood([tiny.picture("red", 0)], ["<image> <image>"], ["a"])
