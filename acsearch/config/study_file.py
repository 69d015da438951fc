"""Study files, read strictly: an unknown key is an error that names the nearest known one.

Paths inside a file are relative to the file. A table, study or prior may also be given by the name of one that ships
with acsearch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from acsearch.config.prior_file import load_prior, priors
from acsearch.config.table_file import FileName, Name, load_table, locate, shipped
from acsearch.config.training import TrainingConfig
from acsearch.law.prior import Prior
from acsearch.tables.names import normal
from acsearch.tables.table import BenchmarkScale, Table, TableMetadata
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, first_problem, read_yaml


class StudyFile(StrictModel, strict=True):
    """The keys of `study.yaml`.

    Attributes:
        name: Name of the study.
        title: Title for reports.
        table: The recorded table that finetunes are looked up in; either this or `training` is given.
        training: How candidates are scored, finetuned and evaluated.
        policy: The policy that proposes candidates.
        prior: The prior of the Bayesian law.
        objective: `mean` for the mean of all benchmarks, or the name of one.
        seed: Seed of the search.
    """

    name: Name
    title: str = ""
    table: FileName | None = None
    training: TrainingConfig | None = None
    policy: str = "default"
    prior: FileName = "weak"
    objective: Annotated[str, AfterValidator(normal)] = "mean"
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _one_source(self) -> StudyFile:
        if (self.table is None) == (self.training is None):
            raise ValueError("give a table, which finetunes are looked up in, or training, by which they are done")
        return self


@dataclass(frozen=True)
class Source:
    """Where the candidates of a study come from; one of the two is given.

    Attributes:
        table: Name or path of a recorded table.
        study: Name or path of a study file whose `training` part says how candidates are trained.
    """

    table: str | None = None
    study: str | None = None


@dataclass(frozen=True)
class StudyConfig:
    """A study file with the table and prior that it names.

    Attributes:
        file: The study file; its table and prior are absolute paths, or names of those that ship with acsearch.
        table: The candidates; scores, A and C are NaN where they have to be measured.
        prior: The prior of the Bayesian law.
        source: Where the candidates come from.
        path: Path of the study file.
    """

    file: StudyFile
    table: Table
    prior: Prior
    source: Source
    path: Path


def load_study(study: str) -> StudyConfig:
    """Read a study file, its table and its prior.

    Args:
        study: A `study.yaml`, a folder that holds one, or the name of a study that ships with acsearch.

    Raises:
        ConfigError: there is no such study, or it cannot be used.
        TableError: its table cannot be used.
    """
    path = locate(study, "study.yaml", "study")
    file = read_yaml(path, StudyFile)
    prior = file.prior if file.prior in priors() else _absolute(file.prior, path, priors())
    file = file.model_copy(update={"prior": prior})
    if file.training is not None:
        source = Source(study=_absolute(path.name, path, shipped("study.yaml")))
        return StudyConfig(file, blank_table(file, file.training), load_prior(prior), source, path)
    assert file.table is not None
    source = Source(table=_absolute(file.table, path, shipped("table.csv")))
    file = file.model_copy(update={"table": source.table})
    return StudyConfig(file, load_source(source), load_prior(prior), source, path)


def load_source(source: Source) -> Table:
    """Read the candidates of a study.

    Raises:
        ConfigError: the study file cannot be used.
        TableError: the table cannot be used.
    """
    if source.table is not None:
        return load_table(source.table)
    assert source.study is not None
    return load_study(source.study).table


def blank_table(file: StudyFile, training: TrainingConfig) -> Table:
    """The table of a study that trains: all candidates and benchmarks, with NaN for every value.

    Raises:
        ConfigError: a benchmark is unknown.
    """
    from evals.benchmarks import benchmark  # here, because only studies that train need it

    scales = tuple(BenchmarkScale(name, (one := benchmark(name)).floor, one.ceiling) for name in training.benchmarks)
    metadata = TableMetadata(
        alignment=training.alignment.definition,
        correspondence=training.correspondence.definition if training.correspondence else "none",
        llm=training.llm,
        source=f"trained and evaluated by this study (training {training.digest[:12]})",
        title=file.title,
        benchmarks=scales,
    )
    unknown = np.full((len(training.names), len(scales)), np.nan)
    return Table(file.name, training.names, unknown, unknown, unknown[:, 0], unknown, metadata)


def _absolute(given: str, file: Path, known: dict[str, Path]) -> str:
    """A path that is given in a file, as an absolute path, or as the name of what ships with acsearch."""
    path = Path(os.path.realpath(file.parent / given))
    return next((name for name, place in known.items() if place.resolve() == path), str(path))


def update(file: StudyFile, **changes: object) -> StudyFile:
    """Replace keys of a study file by options of the command line.

    Args:
        file: The study file.
        **changes: New values by key; None keeps the old value.

    Raises:
        ConfigError: a new value is not allowed.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return StudyFile.model_validate(file.model_dump() | given)
    except ValidationError as error:
        raise ConfigError(f"--{first_problem(error, StudyFile)}") from error
