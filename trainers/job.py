"""What is trained: a model's parts, and the settings of a stage. No torch here: study files are read with it.

A job's digest names its result, so that the same job is never run twice, in whatever study it appears.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.errors import TrainingError
from trainers.utils.strict_yaml import StrictModel

Count = Annotated[int, Field(ge=1, le=10**12)]  # beyond, sums over it are no exact floats any more
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Tune(StrictModel):
    """How a part of the model is trained. lr: at its highest.  rank, alpha: of LoRA, on all linear layers."""

    mode: Literal["frozen", "lora", "full"] = "frozen"
    lr: float = Field(default=0.0, ge=0, le=1)
    rank: int = Field(default=16, ge=1, le=2**16)
    alpha: float = Field(default=32.0, gt=0, le=1e6)


class Parts(StrictModel):
    """What a model is made of. representation: with its connector.  encoders: registry files besides the built-in."""

    representation: str
    llm: str
    template: str
    encoders: tuple[Path, ...] = ()
    resize: Literal["letterbox", "squash"] = "letterbox"
    seed: Seed = 0


class Expect(StrictModel):
    """What a plan reckons with where the data is not there yet. text_tokens: of a sample, on average."""

    samples: Count
    text_tokens: Count


class Stage(StrictModel):
    """One stage of training.

    batch: samples of an optimizer step over all processes.  micro_batch: of them, what a process takes at a time.
    longest: positions after which a sample is cut.  warmup: share of the steps.  clip: gradient norm, 0 for none.
    checkpoint_every: steps; 0 for none before the end.  shard: spread weights and optimizer over processes (FSDP).
    """

    data: str
    images: str | None = None
    template: str
    train: dict[str, Tune]
    epochs: float = Field(default=1.0, ge=1e-6, le=1e6)
    batch: Count
    micro_batch: Count
    longest: int = Field(default=2048, ge=2, le=10**8)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    clip: float = Field(default=1.0, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    shard: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cache_features: bool = False
    workers: int = Field(default=0, ge=0)
    expect: Expect | None = None

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        if unknown := set(self.train) - {"vision", "connector", "llm"}:
            raise ValueError(f"train: no part {min(unknown)!r}; the parts are vision, connector, llm")
        trained = {part: tune for part, tune in self.train.items() if tune.mode != "frozen"}
        if not trained:
            raise ValueError("train: every part is frozen; give at least the connector mode full and an lr")
        if idle := [part for part, tune in trained.items() if tune.lr == 0]:
            raise ValueError(f"train: {idle[0]} has lr 0 and would learn nothing; give it an lr, or mode frozen")
        if self.cache_features and "vision" in trained:
            raise ValueError("cache_features: only features of frozen encoders can be cached, and vision is trained")
        return self


class Shared(StrictModel):
    """A work store, and the folder here whose contents it shares; see `trainers.checkpoints.work_store`."""

    url: str
    root: Path


class Job(StrictModel):
    """A stage of one candidate. data: the manifest.  start: the committed result whose weights it begins with."""

    parts: Parts
    stage: Stage
    data: Path
    images: Path | None = None
    start: Path | None = None
    seed: Seed = 0
    identity: str = ""  # of whatever the paths point to
    features: Path | None = None  # where cached features are
    store: Shared | None = None
    labels: dict[str, str] = {}  # written beside checkpoints: the MLflow run, the trial

    @property
    def digest(self) -> str:
        """sha256 over what the result depends on; where things lie, and how they are cached, is left out."""
        where = {"data", "images"}
        how = where | {
            "checkpoint_every",
            "gradient_checkpointing",
            "shard",
            "micro_batch",
            "cache_features",
            "workers",
            "expect",
        }
        content = {
            "parts": self.parts.model_dump(mode="json", exclude={"encoders", "llm"}),
            "stage": self.stage.model_dump(mode="json", exclude=how),
            "seed": self.seed,
            "identity": self.identity,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_job(path: Path) -> Job:
    """Raises TrainingError when the file is not a job's."""
    try:
        return Job.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not a training job: {error}") from error
