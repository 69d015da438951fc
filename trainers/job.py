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
from trainers.utils.regular_files import read_text
from trainers.utils.strict_yaml import StrictModel

Count = Annotated[int, Field(ge=1, le=10**12)]  # beyond, sums over it are no exact floats any more
Recompute = Literal["none", "selective", "full"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Tune(StrictModel):
    """How a part of the model is trained.

    Attributes:
        mode: frozen, or trained with LoRA, or trained in full.
        lr: the highest learning rate that the part reaches.
        rank: rank of LoRA's matrices, which adapt all linear layers.
        alpha: LoRA's scale; what the matrices add is multiplied by alpha / rank.
    """

    mode: Literal["frozen", "lora", "full"] = "frozen"
    lr: float = Field(default=0.0, ge=0, le=1)
    rank: int = Field(default=16, ge=1, le=2**16)
    alpha: float = Field(default=32.0, gt=0, le=1e6)


class Parts(StrictModel):
    """What a model is made of.

    Attributes:
        representation: the name of the vision representation, with its connector.
        llm: a folder or a Hugging Face id of the language model.
        template: the conversation template by which the model is asked.
        encoders: registry files of encoders, besides the built-in one.
        resize: how an image becomes the square that encoders take.
        seed: decides the connector's first weights.
    """

    representation: str
    llm: str
    template: str
    encoders: tuple[Path, ...] = ()
    resize: Literal["letterbox", "squash"] = "letterbox"
    seed: Seed = 0


class Expect(StrictModel):
    """What a plan assumes of data that is not there yet.

    Attributes:
        samples: how many samples there will be.
        text_tokens: text tokens of a sample, on average.
    """

    samples: Count
    text_tokens: Count


class Stage(StrictModel):
    """One stage of training.

    Fields that were added later are written only where they are not the default, so that digests stay what they were.

    Attributes:
        data: the manifest, relative to the data folder.
        images: the folder of the images, relative to the data folder.
        template: the conversation template of the samples.
        train: how each part of the model is trained; a part that is not named is frozen.
        epochs: how often every sample is trained on; a fraction is allowed.
        batch: samples of an optimizer step, over all processes.
        micro_batch: samples that a process takes at a time.
        pack: whether samples follow each other in one row in place of padding, each seeing itself alone.
        tokens_per_pack: the most positions of such a row; micro_batch * longest where it is not given.
        longest: positions after which a sample is cut.
        on_bad_sample: what becomes of a row that cannot be trained on: error refuses the data, drop leaves the row out.
        max_dropped: the largest share of rows that may be left out, or be cut before anything is learnt from them.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: AdamW's weight decay.
        clip: the gradient norm to clip at; 0 for none.
        checkpoint_every: optimizer steps between checkpoints; 0 for none before the end.
        gradient_checkpointing: whether activations are computed again going backward, to save memory.
        recompute: what is computed again, in place of gradient_checkpointing: none, all but products and attention
            (selective), full; auto is the least that fits into memory.
        compile: whether the language model's layers are compiled by torch.
        shard: whether weights and optimizer are spread over the processes (FSDP).
        precision: of the computation; auto is bf16 on a GPU and fp32 elsewhere.
        cache_features: whether features of frozen encoders are computed once and kept.
        workers: loader processes of each training process.
        expect: what a plan assumes where the data is not there yet.
    """

    data: str
    images: str | None = None
    template: str
    train: dict[str, Tune]
    epochs: float = Field(default=1.0, ge=1e-6, le=1e6)
    batch: Count
    micro_batch: Count
    pack: bool = Field(default=False, exclude_if=lambda value: value is False)
    tokens_per_pack: Count | None = Field(default=None, exclude_if=lambda value: value is None)
    longest: int = Field(default=2048, ge=2, le=10**8)
    on_bad_sample: Literal["error", "drop"] = Field(default="error", exclude_if=lambda value: value == "error")
    max_dropped: float = Field(default=0.01, ge=0, lt=1, exclude_if=lambda value: value == 0.01)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    clip: float = Field(default=1.0, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    recompute: Literal["auto"] | Recompute | None = Field(default=None, exclude_if=lambda value: value is None)
    compile: bool = Field(default=False, exclude_if=lambda value: value is False)
    shard: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cache_features: bool = False
    workers: int = Field(default=0, ge=0)
    expect: Expect | None = None

    @property
    def recomputed(self) -> Recompute:
        """What is computed again going backward; where memory decides, what takes least of it."""
        if self.recompute is None:
            return "full" if self.gradient_checkpointing else "none"
        return "full" if self.recompute == "auto" else self.recompute

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        if unknown := set(self.train) - {"vision", "connector", "fusion", "llm"}:
            raise ValueError(f"train: no part {min(unknown)!r}; the parts are vision, connector, fusion, llm")
        trained = {part: tune for part, tune in self.train.items() if tune.mode != "frozen"}
        if not trained:
            raise ValueError("train: every part is frozen; give at least the connector mode full and an lr")
        if idle := [part for part, tune in trained.items() if tune.lr == 0]:
            raise ValueError(f"train: {idle[0]} has lr 0 and would learn nothing; give it an lr, or mode frozen")
        if self.tokens_per_pack is not None and not (self.pack and self.tokens_per_pack >= self.longest):
            raise ValueError("tokens_per_pack: needs pack: true, and room for a sample of the longest kind (longest)")
        if self.recompute is not None and self.gradient_checkpointing:
            raise ValueError("recompute: takes the place of gradient_checkpointing; give one of them")
        if self.cache_features and "vision" in trained:
            raise ValueError("cache_features: only features of frozen encoders can be cached, and vision is trained")
        return self


class Shared(StrictModel):
    """A work store; see `trainers.checkpoints.work_store`.

    Attributes:
        url: fsspec address of the store.
        root: the folder here whose contents the store shares.
    """

    url: str
    root: Path


class Planned(StrictModel):
    """What a plan expects of a stage, to be logged beside what it took.

    Attributes:
        hours: of the whole stage.
        memory_gb: of one process.
    """

    hours: float
    memory_gb: float


class Job(StrictModel):
    """A stage of training one candidate.

    Attributes:
        parts: what the model is made of.
        stage: how it is trained.
        data: path of the manifest.
        images: folder of the manifest's images; the manifest's own folder where it is not given.
        start: the committed result whose weights training begins with.
        seed: decides the order of samples and what a model drops.
        identity: stands for the contents of everything that the paths point to.
        features: folder of cached features.
        index: folder of the indices of manifests; the stage's own where it is not given.
        store: the work store that shares the work folder.
        labels: written beside checkpoints, such as the MLflow run and the trial.
        planned: what a plan expects of the stage.
    """

    parts: Parts
    stage: Stage
    data: Path
    images: Path | None = None
    start: Path | None = None
    seed: Seed = 0
    identity: str = ""
    features: Path | None = None
    index: Path | None = None
    store: Shared | None = None
    labels: dict[str, str] = {}
    planned: Planned | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the result depends on. Where files are, and how they are cached, is left out."""
        where = {"data", "images"}
        how = where | {
            "checkpoint_every",
            "gradient_checkpointing",
            "recompute",
            "compile",
            "shard",
            "micro_batch",
            "pack",
            "tokens_per_pack",
            "cache_features",
            "workers",
            "expect",
            "max_dropped",
        }

        content = {
            "parts": self.parts.model_dump(mode="json", exclude={"encoders", "llm"}),
            "stage": self.stage.model_dump(mode="json", exclude=how),
            "seed": self.seed,
            "identity": self.identity,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_job(path: Path) -> Job:
    """Read a job that was written as JSON.

    Raises:
        TrainingError: the file cannot be read, or is not a job.
    """
    try:
        return Job.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not a training job: {error}") from error
