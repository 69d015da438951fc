"""The `training` part of a study file: the candidates, and how each is scored, finetuned and evaluated.

Names of files are relative to the data folder: the one that `prepare` makes, or `data`, which is beside the study file
or below $ACSEARCH_DATA. `llm` and `encoders` are relative to the study file; an `llm` that is no folder there is a hub
id.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.errors import SpaceError
from trainers.job import Count, Seed, Stage
from trainers.representation import Choice, Representation, parse, parse_word
from trainers.utils.strict_yaml import StrictModel

_Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]


class Prepare(StrictModel):
    """How data is generated, where it is not downloaded.

    Attributes:
        call: "module:function", which is called with a folder, the seed and the sizes.
        seed: Seed of the data.
        sizes: Numbers of samples, by the argument's name.
    """

    call: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    seed: Seed = 0
    sizes: dict[str, Annotated[int, Field(ge=1)]] = {}


class Alignment(StrictModel):
    """How alignment A is measured.

    Attributes:
        definition: The definition of the score.
        data: A manifest of captions.
        samples: Number of captions or images.
        references: The representations that A_cos compares with; empty for the other definitions.
    """

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
    """How correspondence C is measured.

    Attributes:
        definition: The definition of the score.
        pairs: A folder in the layout of SPair-71k.
        decode: The decoding of similarities.
    """

    definition: Literal["C", "C_compat"] = "C"
    pairs: _Name
    decode: Literal["argmax", "soft"] = "argmax"


class Evaluation(StrictModel):
    """How trained models are evaluated.

    Attributes:
        batch_size: Samples at a time.
        limit: Samples of each benchmark; None for all.
        data: By benchmark, a local copy of its data set.
    """

    batch_size: int = Field(default=32, ge=1)
    limit: int | None = Field(default=None, ge=2)
    data: dict[str, str] = {}


class Hardware(StrictModel):
    """The hardware that `acsearch study plan` calculates for; without it, it calculates for this machine.

    Attributes:
        name: Name of the device, for the output.
        kind: Kind of the devices that `gpus` counts.
        gpus: Number of devices.
        tflops: Dense bf16 peak of one device, in TFLOP/s.
        memory_gb: Memory of one device, in GB.
        utilisation: Share of the peak that training reaches.
    """

    name: str
    kind: Literal["GPU", "CPU"] = "GPU"
    gpus: Count
    tflops: float = Field(ge=1e-6, le=1e9)
    memory_gb: float = Field(ge=1e-6, le=1e9)
    utilisation: float = Field(default=0.4, ge=1e-6, le=1)


class SlurmOptions(StrictModel):
    """The jobs of `--engine slurm`.

    Attributes:
        partition: Slurm's partition.
        account: Slurm's account.
        nodes: Number of nodes.
        gpus: GPUs of each node.
        cpus: CPUs of each node.
        memory_gb: Memory of each node, in GB.
        minutes: Time limit.
        notice: Seconds before the time limit at which the job is signalled to stop.
        setup: Shell lines to run before the command, such as `module load`.
        options: Further options of sbatch, such as `{qos: high}`.
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
    """The `training` part of a study file.

    Attributes:
        candidates: Names of the vision representations.
        encoders: YAML files with encoders that are not in the registry.
        connector: Connector of candidates whose name gives none.
        resize: Framing of candidates whose name gives none: how an image becomes what encoders are shown.
        llm: The language model: a folder, or a hub id, which "@" and a revision may follow.
        template: Template of the prompts.
        prepare: How data is generated; either this or `data` is given.
        data: Folder of the data.
        alignment: How A is measured.
        correspondence: How C is measured; None for a study without C.
        align: Stage 1, in which the connector is trained.
        finetune: Stage 2, the finetune.
        benchmarks: Names of the benchmarks.
        evaluation: How trained models are evaluated.
        processes: Processes that train together, for instance one for each GPU; as many measure A and C and evaluate.
        parallel: Candidates that are scored at the same time. They share the cores of the machine, which helps tiny
            models that make poor use of several cores.
        hardware: The hardware that a plan calculates for.
        slurm: The jobs of `--engine slurm`.
        seed: Seed of training.
    """

    candidates: tuple[str, ...] = Field(min_length=2)
    encoders: tuple[_Name, ...] = ()
    connector: str = "mlp2x"
    resize: str = "letterbox"
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
            names = self.names
            _ = self.references
        except SpaceError as error:
            raise ValueError(str(error)) from error
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"candidates: {twice[0]} is given twice")
        if (self.prepare is None) == (self.data is None):
            raise ValueError("data: give the folder of the data, or prepare, which makes it; one of the two")
        return self

    @property
    def defaults(self) -> tuple[Choice, Choice]:
        """The connector and the framing of candidates whose name gives none."""
        return parse_word(self.connector, "connector"), parse_word(self.resize, "framing")

    @property
    def representations(self) -> tuple[Representation, ...]:
        """The candidates, parsed."""
        return tuple(parse(name, *self.defaults) for name in self.candidates)

    @property
    def references(self) -> tuple[Representation, ...]:
        """The representations that A_cos compares with, parsed."""
        return tuple(parse(name, *self.defaults) for name in self.alignment.references)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the candidates, which leave out the connector and the framing of the study."""
        return tuple(one.name(*self.defaults) for one in self.representations)

    def data_folder(self, home: Path) -> Path | None:
        """Find the data folder.

        Args:
            home: Folder of the study file.

        Returns:
            The folder beside the study file or below $ACSEARCH_DATA; None where there is none, or `prepare` makes it.
        """
        if self.data is None:
            return None
        from acsearch.config.settings import settings

        places = [home / self.data, Path(settings().data or home) / self.data]
        return next((place for place in places if place.is_dir()), None)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the numbers of the study depend on."""
        return hashlib.sha256(
            self.model_dump_json(exclude={"processes", "parallel", "hardware", "slurm"}).encode()
        ).hexdigest()
