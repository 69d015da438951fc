"""Every framing and joining through both stages: resumed to the bit, with several images and videos, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support import tiny
from support.training_jobs import (
    CONNECTOR,
    LORA,
    Interrupted,
    TinyJobs,
    assert_close,
    exit_codes,
    start_ranks,
    stopping,
    weights,
)
from trainers.data.batch import Batch
from trainers.data.feature_cache import FeatureCache
from trainers.data.packing import pack
from trainers.job import Job, Tune
from trainers.model.loading import build_model, load_model
from trainers.model.multimodal import MultimodalModel
from trainers.model.packed_attention import prepare_packing
from trainers.training.train import RESULT, job_samples, run_stage

DESIGNS = [
    "clip@32|anyres",
    "siglip@32+clip@32|native|normconcat|linear",
    "clip@32+siglip@32|append|pool@2",
    "clip@32+siglip@32|anyres|interleave",
    "clip@32|native@2|shuffle@2",
]


@pytest.fixture(scope="module")
def mixed(jobs: TinyJobs) -> Path:
    return tiny.mixed_manifest(jobs.folder / "mixed")


def job_of(jobs: TinyJobs, mixed: Path, design: str, train: dict[str, Tune], **changes: Any) -> Job:
    parts = {"representation": design}
    settings = {"longest": 250, "epochs": 1.0, "checkpoint_every": 2} | changes
    return jobs.make(train, parts=parts, **settings).model_copy(update={"data": mixed})


@pytest.mark.parametrize("design", DESIGNS)
def test_both_stages_resumed_and_asked(jobs: TinyJobs, mixed: Path, tmp_path: Path, design: str) -> None:
    whole = run_stage(job_of(jobs, mixed, design, CONNECTOR), tmp_path / "whole")
    job = job_of(jobs, mixed, design, CONNECTOR)
    with pytest.raises(Interrupted):
        run_stage(job, tmp_path / "taken up", on_step=stopping(2))
    first = run_stage(job, tmp_path / "taken up")
    assert weights(first) == weights(whole)
    second = run_stage(job_of(jobs, mixed, design, LORA, start=first, identity="2"), tmp_path / "second")
    model = load_model(second)
    pictures = [tiny.picture("red", 0, (40, 30)), tiny.picture("blue", 1, (20, 70))]
    film = [tiny.picture("green", 2), tiny.picture("green", 3)]
    shown = [None, pictures[0], pictures, [film], [pictures[1], film]]
    prompts = ["what is it ?", "what is it ?", "<image> a <image> what ?", "what is it ?", "what ?"]
    answers = model.generate(shown, prompts, 4)
    assert answers == [model.generate([one], [prompt], 4)[0] for one, prompt in zip(shown, prompts, strict=True)]
    likely = model.log_likelihood(shown, prompts, ["red"] * 5)
    assert all(value < 0 for value, _ in likely)


@pytest.mark.parametrize("design", DESIGNS)
def test_losses_of_cached_and_packed_samples_are_the_same(
    jobs: TinyJobs, mixed: Path, tmp_path: Path, design: str
) -> None:
    """With their gradients; so is the loss of a batch the sum of its samples'."""
    job = job_of(jobs, mixed, design, CONNECTOR)
    model, samples = build_model(job.parts), job_samples(job, tmp_path)
    model.tune({"connector": Tune(mode="full", lr=0.1), "llm": Tune(mode="full", lr=0.1)}, seed=0)
    cache = FeatureCache(tmp_path, model.vision, samples)
    cache.fill()
    live, cached = model.batcher(samples, 250), model.batcher(samples, 250, cache)
    rows = [1, 2, 3, 0]
    found = [
        losses(model, [live.batch(rows)]),
        losses(model, [cached.batch(rows)]),
        losses(model, [live.batch([row]) for row in rows]),
    ]
    prepare_packing(model.llm)
    found.append(losses(model, [pack(live.batch(rows))]))
    loss, gradients = found[0]
    for again, others in found[1:]:
        assert again == pytest.approx(loss, rel=1e-5)
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, gradient, atol=1e-5 * float(gradient.abs().max() + 1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["clip@32|anyres", "clip@32+siglip@32|native|append"])
def test_two_processes_learn_what_one_learns(
    jobs: TinyJobs, mixed: Path, forks: Any, tmp_path: Path, design: str
) -> None:
    """Also where one of them sees a film, or text alone, and the other tiles."""
    job = job_of(jobs, mixed, design, LORA)
    alone = run_stage(job, tmp_path / "one")
    assert exit_codes(start_ranks(forks, job, tmp_path / "two", 2)) == [0, 0]
    assert_close(alone, tmp_path / "two" / RESULT)


def losses(model: MultimodalModel, batches: list[Batch]) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    found = [model(batch) for batch in batches]
    for loss in found:
        loss.backward()
    gradients = [weight.grad for weight in model.trainable().values()]
    return sum(loss.item() for loss in found), [one.clone() for one in gradients if one is not None]
