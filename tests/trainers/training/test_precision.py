"""One precision for each part, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_jobs import (
    BOTH,
    CONNECTOR,
    LORA,
    Interrupted,
    TinyJobs,
    exit_codes,
    start_ranks,
    stopping,
    weights,
)
from trainers.job import Tune
from trainers.model.loading import build_model
from trainers.model.precision import PartTypes, training_types
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage

HALF, SINGLE = torch.bfloat16, torch.float32
VISION = BOTH | {"vision": Tune(mode="full", lr=1e-4)}


@pytest.mark.parametrize(
    ("train", "declared", "expected"),
    [
        (CONNECTOR, "fp32", PartTypes()),
        (CONNECTOR, "bf16", PartTypes(HALF, SINGLE, HALF)),  # a frozen language model takes half the memory
        (BOTH, "bf16", PartTypes(HALF, SINGLE, SINGLE)),
        (LORA, "bf16", PartTypes(HALF, SINGLE, HALF)),
        (VISION, "bf16", PartTypes(SINGLE, SINGLE, SINGLE)),
    ],
)
def test_what_is_trained_is_kept_in_single_precision(
    jobs: TinyJobs, train: dict[str, Tune], declared: Any, expected: PartTypes
) -> None:
    assert training_types(jobs.make(train, precision=declared).stage) == expected


def test_in_half_precision_it_learns_what_it_learns_in_single(jobs: TinyJobs, tmp_path: Path) -> None:
    losses = {}
    for declared in ("fp32", "bf16"):
        run_stage(jobs.make(BOTH, precision=declared), tmp_path / declared)
        losses[declared] = [line.metrics["loss"] for line in MetricsLog(tmp_path / declared / METRICS_LOG).read()]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


@pytest.mark.parametrize("train", [LORA, VISION], ids=["lora", "tuned tower"])
def test_in_half_precision_it_is_resumed_to_the_bit(jobs: TinyJobs, tmp_path: Path, train: dict[str, Tune]) -> None:
    job = jobs.make(train, precision="bf16", pack=True)
    with pytest.raises(Interrupted):
        run_stage(job, tmp_path / "two", stopping(5))
    assert weights(run_stage(job, tmp_path / "two")) == weights(run_stage(job, tmp_path / "one"))


def test_frozen_parts_take_half_of_their_memory(jobs: TinyJobs) -> None:
    job = jobs.make(CONNECTOR, precision="bf16")
    sizes = [
        sum(weight.nbytes for part in (model.vision, model.llm) for weight in part.parameters())
        for model in (build_model(job.parts), build_model(job.parts, types=training_types(job.stage)))
    ]
    assert sizes[1] * 2 == sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("train", [LORA, VISION], ids=["lora", "tuned tower"])
def test_in_half_precision_two_processes_share_it(
    jobs: TinyJobs, forks: Any, tmp_path: Path, train: dict[str, Tune]
) -> None:
    """Frozen weights in bf16 beside trained ones in float32, gathered together."""
    job = jobs.make(train, precision="bf16", shard=True, micro_batch=1, epochs=1, pack=True, tokens_per_pack=100)
    assert exit_codes(start_ranks(forks, job, tmp_path / "two", 2)) == [0, 0]
    run_stage(job, tmp_path / "one")
    one, two = (MetricsLog(tmp_path / name / METRICS_LOG).read() for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], rel=0.03)
    assert (tmp_path / "two" / RESULT).exists()
