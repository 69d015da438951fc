"""The loss at supervised positions against the one that transformers computes from all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from trainers.data.templates import IGNORE_INDEX
from trainers.model import loss
from trainers.model.loss import plain_head, summed_loss, supervised_logits

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
PLAIN = {"Llama": {}, "Qwen2": {"tie_word_embeddings": True}, "Mistral": {}, "Phi": {"hidden_act": "gelu"}}
SCALED: dict[str, dict[str, Any]] = {
    "Gemma2": {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 3.0},
}


def language_model(kind: str) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SHAPE | (PLAIN | SCALED)[kind])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = getattr(transformers, f"{kind}ForCausalLM")(config)
        head = made.get_output_embeddings()
        if head.bias is not None:
            torch.nn.init.normal_(head.bias)
    return made.eval()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 40, (3, 9), generator=generator)
    labels[torch.rand(3, 9, generator=generator) < 0.6] = IGNORE_INDEX
    labels[2] = IGNORE_INDEX  # a sample in which nothing is learnt
    return torch.randn(3, 9, 16, generator=generator), labels


def from_all_logits(llm: Any, embeds: Tensor, labels: Tensor) -> Tensor:
    logits = llm(inputs_embeds=embeds, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def gradients(llm: Any, embeds: Tensor, value: Tensor) -> dict[str, Tensor]:
    embeds.grad = None
    llm.zero_grad()
    value.backward()
    assert embeds.grad is not None
    weights = {name: weight.grad for name, weight in llm.named_parameters() if weight.grad is not None}
    return {"inputs": embeds.grad.clone()} | {name: one.clone() for name, one in weights.items()}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize("kind", [*PLAIN, *SCALED])
def test_loss_and_gradients_are_those_of_all_logits(kind: str, pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces:
        monkeypatch.setattr(loss, "WHOLE", 0)
    llm, (embeds, labels) = language_model(kind), inputs()
    embeds.requires_grad_()
    expected = from_all_logits(llm, embeds, labels)
    found = summed_loss(llm, labels, plain_head(llm), inputs_embeds=embeds)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    wanted, got = gradients(llm, embeds, expected), gradients(llm, embeds, found)
    assert set(got) == set(wanted)
    for name, one in wanted.items():
        torch.testing.assert_close(got[name], one, rtol=1e-5, atol=1e-6 * float(one.abs().max()))


@pytest.mark.parametrize("kind", [*PLAIN, *SCALED])
def test_an_output_layer_is_plain_where_nothing_follows_it(kind: str) -> None:
    llm = language_model(kind)
    assert plain_head(llm) == (kind in PLAIN)
    before = vars(llm.get_output_embeddings()).get("forward")
    assert before is None, "its own forward is back"


def test_the_output_layer_sees_supervised_positions_alone() -> None:
    llm, (embeds, labels) = language_model("Gemma2"), inputs()
    seen: list[tuple[int, ...]] = []
    llm.get_output_embeddings().register_forward_hook(lambda _, given, made: seen.append(tuple(made.shape)))
    logits, targets = supervised_logits(llm, labels, inputs_embeds=embeds)
    count = int((labels[:, 1:] != IGNORE_INDEX).sum())
    assert seen == [(1, count, 40)]
    assert logits.shape == (count, 40)
    assert targets.tolist() == [token for row in labels[:, 1:].tolist() for token in row if token != IGNORE_INDEX]


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
def test_in_half_precision_losses_are_added_in_single(pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces:
        monkeypatch.setattr(loss, "WHOLE", 0)
    llm, (embeds, labels) = language_model("Llama"), inputs()
    embeds, labels = embeds.repeat(50, 1, 1), labels.repeat(50, 1)
    exact = from_all_logits(llm, embeds, labels).item()
    with torch.autocast("cpu", torch.bfloat16):
        found = summed_loss(llm, labels, True, inputs_embeds=embeds)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=2e-3)
    found.backward()
    assert llm.get_output_embeddings().weight.grad.dtype == torch.float32


def test_nothing_to_learn_is_a_loss_of_zero_with_gradients() -> None:
    """A process without samples takes part in a step all the same."""
    llm, (embeds, labels) = language_model("Llama"), inputs()
    value = summed_loss(llm, torch.full_like(labels, IGNORE_INDEX), True, inputs_embeds=embeds)
    value.backward()
    assert value.item() == 0
    assert all(
        weight.grad is not None and not weight.grad.any()
        for name, weight in llm.named_parameters()
        if "embed_tokens" not in name
    )
