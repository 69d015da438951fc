"""Stage after stage: a result holds what all stages before it trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from support.training_jobs import BOTH, CONNECTOR, LORA, TinyJobs
from trainers.errors import TrainingError
from trainers.job import Parts, Tune
from trainers.model.loading import MODEL, load_model
from trainers.model.multimodal import MultimodalModel
from trainers.training.train import run_stage


def test_a_result_holds_what_all_stages_trained(jobs: TinyJobs, tmp_path: Path) -> None:
    """A stage that leaves the connector or LoRA's layers of the stage before it as they are still passes them on."""
    first = run_stage(jobs.make(LORA, turns=1), tmp_path / "1")
    before = dict(load_model(first).named_parameters())
    untrained = dict(load_model_untrained(first).named_parameters())
    learnt = {name for name in before if not torch.equal(before[name], untrained[name])}
    assert {name.split(".")[0] for name in learnt} == {"connector", "llm"}
    second = run_stage(jobs.make(CONNECTOR, start=first, identity="2"), tmp_path / "2")
    after = dict(load_model(second).named_parameters())
    for name in after:
        assert torch.equal(after[name], before[name]) == (not name.startswith("connector")), name
    third = run_stage(jobs.make({"llm": LORA["llm"]}, start=second, identity="3"), tmp_path / "3")
    last = dict(load_model(third).named_parameters())
    assert {name for name in last if not torch.equal(last[name], after[name])} == learnt - {
        name for name in learnt if name.startswith("connector")
    }
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "2")
    assert load_model(third).fingerprint == load_model(third).fingerprint


def test_a_tuned_encoder_is_kept_too(jobs: TinyJobs, tmp_path: Path) -> None:
    tables = {mode: {"vision": Tune(mode=mode, lr=1e-3, rank=4)} | CONNECTOR for mode in ("full", "lora")}
    for mode, table in tables.items():
        result = run_stage(jobs.make(table), tmp_path / mode)
        before = dict(load_model_untrained(result).named_parameters())
        after = dict(load_model(result).named_parameters())
        learnt = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert learnt == {"vision", "connector"}


def load_model_untrained(result: Path) -> MultimodalModel:
    from trainers.model.loading import build_model

    return build_model(Parts.model_validate(json.loads((result / MODEL).read_text())["parts"]))


def test_a_start_of_other_parts_is_refused(jobs: TinyJobs, tmp_path: Path) -> None:
    first = run_stage(jobs.make(CONNECTOR), tmp_path / "1")
    job = jobs.make(BOTH, start=first, parts={"representation": "clip@32"})
    with pytest.raises(TrainingError, match="weights of another model: connector"):
        run_stage(job, tmp_path / "2")
    with pytest.raises(TrainingError, match=r"nowhere: not a committed checkpoint"):
        run_stage(jobs.make(BOTH, start=tmp_path / "nowhere"), tmp_path / "3")
