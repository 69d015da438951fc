"""Losses that do not depend on the company of a sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.tiny_models import ALL, batcher, parts
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.job import Tune
from trainers.model.loading import build_model


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_a_loss_does_not_depend_on_the_company(folder: Path, samples: Samples, llm: str) -> None:
    """Of a batch it is the sum of its samples', with their gradients: padding and text-only samples change nothing."""
    model = build_model(parts(folder, ALL, llm))
    model.tune({part: Tune(mode="full", lr=0.1) for part in ("connector", "llm")}, seed=0)
    make = batcher(model, samples)

    def total(*groups: list[int]) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        losses = [model(make.batch(group)) for group in groups]
        for loss in losses:
            loss.backward()
        gradients = [weight.grad for weight in model.trainable().values()]
        return sum(loss.item() for loss in losses), [one.clone() for one in gradients if one is not None]

    loss, gradients = total([0, 1, 7, 15, 2, 8])
    for groups in ([[0], [1], [7], [15], [2], [8]], [[7, 15], [0, 1, 2, 8]], [[8, 7], [2, 15, 1, 0], []]):
        again, others = total(*groups)
        assert again == pytest.approx(loss, rel=1e-6)
        assert len(others) == len(gradients) == len(model.trainable())
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, gradient, atol=1e-6 * float(gradient.abs().max() + 1), rtol=1e-5)


def test_log_probabilities_are_the_loss(folder: Path, samples: Samples) -> None:
    model = build_model(parts(folder))
    batch = batcher(model, samples).batch([0, 1, 7])
    with torch.no_grad():
        values, mask = model.token_log_probs(batch)
        assert -float((values * mask).sum()) == pytest.approx(float(model(batch)), rel=1e-6)
        assert mask.sum() == (batch.labels != IGNORE_INDEX).sum() == 21
        whole = model.llm(**model.llm_inputs(batch), attention_mask=batch.attention_mask).logits.log_softmax(-1)
    for row in range(3):  # by hand: the token at t + 1 from the logits at t
        for place in range(batch.input_ids.shape[1] - 1):
            target = int(batch.labels[row, place + 1])
            if target != IGNORE_INDEX:
                found = values[row][mask[row]][int((batch.labels[row, 1 : place + 1] != IGNORE_INDEX).sum())]
                assert float(found) == pytest.approx(float(whole[row, place, target]), abs=1e-5)


def test_text_alone_gives_every_trained_weight_a_gradient(folder: Path, samples: Samples) -> None:
    """Or the other processes would wait for it for ever."""
    model = build_model(parts(folder))
    model.tune({"vision": Tune(mode="full", lr=0.1), "connector": Tune(mode="full", lr=0.1)}, seed=0)
    loss = model(batcher(model, samples).batch([7, 15]))
    loss.backward()
    assert loss.item() > 0
    for weight in model.trainable().values():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_an_image_is_seen_where_its_mark_stands(folder: Path, samples: Samples) -> None:
    model = build_model(parts(folder))
    batch = batcher(model, samples).batch([1, 7, 2])
    with torch.no_grad():
        embedded = model.llm_inputs(batch)["inputs_embeds"]
        words = model.llm.get_input_embeddings()(batch.input_ids.clamp(min=0))
    marks = batch.input_ids == IMAGE_ID
    assert torch.equal(embedded[~marks], words[~marks])
    assert (batch.places[0].max(), batch.places[1].max(), batch.places[2].max()) == (0, -1, 1)
    assert torch.equal(marks, batch.places >= 0)
    for row, sample in ((0, 1), (2, 2)):
        image = samples.image(sample)
        assert image is not None
        torch.testing.assert_close(embedded[row][marks[row]], model.image_tokens([image]).values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_padding_needs_no_mask(folder: Path, samples: Samples, llm: str) -> None:
    """It is on the right, where no token looks: losses and gradients are the same to the bit."""
    losses, gradients = [], []
    for masked in (True, False):
        model = build_model(parts(folder, llm=llm))
        model.llm.requires_grad_(True)
        batch = batcher(model, samples).batch([1, 7, 2])
        assert not batch.attention_mask.all()
        if masked:
            original = model.llm.forward
            model.llm.forward = lambda forward=original, mask=batch.attention_mask, **given: forward(
                attention_mask=mask, **given
            )
        loss = model(batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: weight.grad for name, weight in model.llm.named_parameters()})
    assert losses[0] == losses[1]
    assert all(torch.equal(one, gradients[1][name]) for name, one in gradients[0].items())
