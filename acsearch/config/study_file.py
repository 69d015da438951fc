"""Files become typed values here, strictly: an unknown key is an error that names the nearest known one.

Three kinds are read: study files (`study.yaml`), the metadata of recorded tables, and priors. Paths inside a
file are relative to the file. A table or study may also be given by the name of one that ships with acsearch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError, model_validator

from acsearch.config.prior_file import load_prior, priors
from acsearch.config.table_file import (
    FileName,
    Name,
    load_table,
    locate,
    shipped,
)
from acsearch.config.training import TrainingConfig
from acsearch.law.prior import Prior
from acsearch.tables.table import BenchmarkScale, Table, TableMetadata
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, first_problem, read_yaml


class StudyFile(StrictModel, strict=True):
    """`study.yaml`: what is searched, and how. Finetunes are looked up in a table, or are done."""

    name: Name
    title: str = ""
    table: FileName | None = None
    training: TrainingConfig | None = None
    policy: str = "default"
    prior: FileName = "weak"
    objective: str = "mean"
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _one_source(self) -> StudyFile:
        if (self.table is None) == (self.training is None):
            raise ValueError("give a table, which finetunes are looked up in, or training, by which they are done")
        return self


@dataclass(frozen=True)
class Source:
    """Where a study's candidates come from. table: a recorded table's name or path.  study: a study file's, whose
    `training` part says how they are trained. One of the two."""

    table: str | None = None
    study: str | None = None


@dataclass(frozen=True)
class StudyConfig:
    """A study file with what it names. table: of candidates; their scores, A and C are NaN where they are yet to be
    found.  In `file`, table and prior are absolute paths or names of shipped ones.  path: of the study file."""

    file: StudyFile
    table: Table
    prior: Prior
    source: Source
    path: Path


def load_study(study: str) -> StudyConfig:
    """Read a study from a folder, a `study.yaml`, or by the name of a shipped one. Raises ConfigError, TableError."""
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
    """The candidates of a study. Raises ConfigError, TableError."""
    if source.table is not None:
        return load_table(source.table)
    assert source.study is not None
    return load_study(source.study).table


def blank_table(file: StudyFile, training: TrainingConfig) -> Table:
    """Candidates that are yet to be scored and finetuned, on benchmarks of known scales. Raises ConfigError."""
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
    """A path in a file, from wherever it is looked at: absolute, or the name of what is shipped there."""
    path = Path(os.path.realpath(file.parent / given))
    return next((name for name, place in known.items() if place.resolve() == path), str(path))


def update(file: StudyFile, **changes: object) -> StudyFile:
    """The same study with what the command line gives instead. Raises ConfigError."""
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return StudyFile.model_validate(file.model_dump() | given)
    except ValidationError as error:
        raise ConfigError(f"--{first_problem(error, StudyFile)}") from error
