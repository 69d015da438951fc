"""The `training` part of a study file: the candidates, and how each is scored, finetuned and evaluated.

Names of files are relative to the data folder: what `prepare` makes, or `data`, which is beside the study file or below
$ACSEARCH_DATA. `llm` and `encoders` are relative to the study file; an `llm` that is no folder there is a hub id.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.errors import SpaceError
from trainers.job import Count, Seed, Stage
from trainers.representation import ConnectorChoice, Representation, parse
from trainers.utils.strict_yaml import StrictModel

_Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]


class Prepare(StrictModel):
    """Data that is made, not downloaded. call: "module:function", called with a folder, seed and sizes."""

    call: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    seed: Seed = 0
    sizes: dict[str, Annotated[int, Field(ge=1)]] = {}


class Alignment(StrictModel):
    """A. data: a manifest of captions.  references: representations that A_cos compares with."""

    definition: Literal["A_ll", "A_ll_train", "A_cos"] = "A_ll"
    data: _Name
    samples: int = Field(default=100, ge=2)
    references: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _references(self) -> Alignment:
        if (self.definition == "A_cos") != bool(self.references):
            raise ValueError("references: A_cos needs the representations that it compares with, and only A_cos")
        return self


class Correspondence(StrictModel):
    """C. pairs: a folder in SPair-71k's layout."""

    definition: Literal["C", "C_compat"] = "C"
    pairs: _Name
    decode: Literal["argmax", "soft"] = "argmax"


class Evaluation(StrictModel):
    """limit: samples of each benchmark.  data: local copies of benchmarks' data sets, by benchmark."""

    batch_size: int = Field(default=32, ge=1)
    limit: int | None = Field(default=None, ge=2)
    data: dict[str, str] = {}


class Hardware(StrictModel):
    """What a plan reckons with; without it, with this machine. tflops: dense bf16 peak of one GPU.

    utilisation: the share of it that training reaches.  kind: what there are `gpus` of.
    """

    name: str
    kind: Literal["GPU", "CPU"] = "GPU"
    gpus: Count
    tflops: float = Field(ge=1e-6, le=1e9)
    memory_gb: float = Field(ge=1e-6, le=1e9)
    utilisation: float = Field(default=0.4, ge=1e-6, le=1)


class SlurmOptions(StrictModel):
    """A job of `--engine slurm`. gpus, cpus, memory_gb: of a node.  notice: seconds before the end at which it is told.

    setup: shell lines before the command, such as `module load`.  options: further ones of sbatch, `{qos: high}`.
    """

    partition: str | None = None
    account: str | None = None
    nodes: Count = 1
    gpus: int = Field(default=0, ge=0, le=10**6)
    cpus: Count | None = None
    memory_gb: Count | None = None
    minutes: Count = 24 * 60
    notice: Count = 180
    setup: tuple[str, ...] = ()
    options: dict[str, str | int | bool] = {}


class TrainingConfig(StrictModel):
    """connector: of candidates that name none.  processes: of one training run, for instance one per GPU.

    parallel: candidates scored at a time. They share the machine's cores; for tiny models, that use two of them badly.
    """

    candidates: tuple[str, ...] = Field(min_length=2)
    encoders: tuple[_Name, ...] = ()
    connector: str = "mlp2x"
    resize: Literal["letterbox", "squash"] = "letterbox"
    llm: _Name
    template: str = "vicuna_v1"
    prepare: Prepare | None = None
    data: str | None = None
    alignment: Alignment
    correspondence: Correspondence | None = None
    align: Stage
    finetune: Stage
    benchmarks: tuple[str, ...] = Field(min_length=1)
    evaluation: Evaluation = Evaluation()
    processes: Count = 1
    parallel: Count = 1
    hardware: Hardware | None = None
    slurm: SlurmOptions = SlurmOptions()
    seed: Seed = 0

    @model_validator(mode="after")
    def _names(self) -> TrainingConfig:
        try:
            names = [one.name(self.default_connector) for one in self.representations]
            for reference in self.alignment.references:
                parse(reference)
        except SpaceError as error:
            raise ValueError(str(error)) from error
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"candidates: {twice[0]} is given twice")
        if (self.prepare is None) == (self.data is None):
            raise ValueError("data: give the folder of the data, or prepare, which makes it; one of the two")
        return self

    @property
    def default_connector(self) -> ConnectorChoice:
        return parse(f"any@1|{self.connector}").connector

    @property
    def representations(self) -> tuple[Representation, ...]:
        return tuple(parse(name, self.default_connector) for name in self.candidates)

    @property
    def references(self) -> tuple[Representation, ...]:
        """What A_cos compares with."""
        return tuple(parse(name, self.default_connector) for name in self.alignment.references)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical, the study's connector left out."""
        return tuple(one.name(self.default_connector) for one in self.representations)

    def data_folder(self, home: Path) -> Path | None:
        """The data, beside the study file or below $ACSEARCH_DATA; None where it is not there, or has to be made."""
        if self.data is None:
            return None
        from acsearch.config.settings import settings

        places = [home / self.data, Path(settings().data or home) / self.data]
        return next((place for place in places if place.is_dir()), None)

    @property
    def digest(self) -> str:
        """sha256 of all that the study's numbers depend on."""
        return hashlib.sha256(
            self.model_dump_json(exclude={"processes", "parallel", "hardware", "slurm"}).encode()
        ).hexdigest()
