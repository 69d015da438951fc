"""Samples in one row have the losses and gradients that they have in rows of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny_models import ALL, batcher, parts
from trainers.data.packing import pack
from trainers.data.samples import Samples
from trainers.errors import TrainingError
from trainers.job import Tune
from trainers.model.loading import build_model
from trainers.model.loss import plain_head, summed_loss
from trainers.model.multimodal import MultimodalModel
from trainers.model.packed_attention import packed_inputs, prepare_packing

FULL, LORA = Tune(mode="full", lr=0.1), Tune(mode="lora", lr=0.1, rank=4)
TRAINED = {
    "full": {"connector": FULL, "llm": FULL},
    "lora": {"connector": FULL, "llm": LORA},
    "tuned tower": {"vision": FULL, "connector": FULL, "llm": FULL},
}


def gradients(model: MultimodalModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad for name, weight in model.trainable().items()}
    return {name: one.clone() for name, one in found.items() if one is not None}


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    nothing = 1e-8 * max(float(one.norm()) for one in theirs.values())  # the bias of keys has no gradient but rounding
    for name, one in theirs.items():
        assert float((ours[name] - one).norm()) <= 1e-5 * float(one.norm()) + nothing, name


@pytest.mark.parametrize("rows", [[0, 1, 7, 15, 2], [7, 15]], ids=["images and text", "text alone"])
@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_packed_losses_and_gradients_are_the_padded_ones(
    folder: Path, samples: Samples, llm: str, train: str, rows: list[int]
) -> None:
    model = build_model(parts(folder, ALL, llm))
    model.tune(TRAINED[train], seed=0)
    batch = batcher(model, samples).batch(rows)
    padded = model(batch)
    wanted = gradients(model, padded)
    for prepared in (False, True):  # a block mask of transformers, and no mask
        if prepared:
            prepare_packing(model.llm)
            assert model.llm.config._attn_implementation == "packed"
        packed = model(pack(batch))
        torch.testing.assert_close(packed, padded, rtol=1e-5, atol=0)
        assert_alike(gradients(model, packed), wanted)


@pytest.mark.parametrize(
    ("kind", "changes", "chosen"),
    [
        ("Llama", {"num_key_value_heads": 1}, "packed"),
        ("Mistral", {"sliding_window": 3}, "packed"),
        ("Gemma2", {"attn_logit_softcapping": 2.0, "sliding_window": 3, "_attn_implementation": "eager"}, "eager"),
    ],
)
def test_architectures_keep_their_own_attention(kind: str, changes: dict[str, Any], chosen: str) -> None:
    """Groups of heads and sliding windows are known here; a cap on scores is transformers' to apply."""
    import transformers

    shape = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    implementation = changes.pop("_attn_implementation", "sdpa")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**shape | heads | changes)
        llm = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation=implementation)
        embeds, labels = torch.randn(1, 12, 16), torch.randint(0, 20, (1, 12))
    lengths, plain = [5, 1, 6], plain_head(llm)
    labels[0, [0, 5, 6]] = -100
    parts = zip(embeds.split(lengths, 1), labels.split(lengths, 1), strict=True)
    alone = sum(summed_loss(llm, wanted, plain, inputs_embeds=given) for given, wanted in parts)
    prepare_packing(llm)
    assert llm.config._attn_implementation == chosen
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = summed_loss(llm, labels, plain, inputs_embeds=embeds, **packed_inputs(position_ids))
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)


def test_a_model_that_does_not_say_where_samples_begin_is_refused(folder: Path) -> None:
    model = build_model(parts(folder))
    prepare_packing(model.llm)
    with pytest.raises(TrainingError, match="samples cannot be packed for LlamaAttention; leave pack out"):
        model.llm(inputs_embeds=torch.zeros(1, 3, 32))
