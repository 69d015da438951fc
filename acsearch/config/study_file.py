"""Files become typed values here, strictly: an unknown key is an error that names the nearest known one.

Three kinds are read: study files (`study.yaml`), the sheets that describe recorded tables, and priors. Paths inside a
file are relative to the file. A table or study may also be given by the name of one that ships with acsearch.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from acsearch.config.training import Recipe
from acsearch.errors import AcsearchError, ConfigError, TableError
from acsearch.law.least_squares import FULL, parse_terms
from acsearch.law.prior import Prior
from acsearch.tables.table import LARGEST, UNSTATED, Benchmark, Sheet, Table, parse_table
from trainers.utils.parsing import parse_yaml

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
FileName = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Points = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BenchmarkSheet(_Strict):
    floor: Points
    ceiling: Points

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> BenchmarkSheet:
        if self.floor >= self.ceiling:
            raise ValueError(f"floor {self.floor:g} must be below ceiling {self.ceiling:g}")
        return self


class TableSheet(_Strict):
    """The YAML beside a recorded table."""

    title: str = ""
    source: str = UNSTATED
    llm: str = UNSTATED
    alignment: Literal["A_cos", "A_ll", "A_ll_train", "unstated"]
    correspondence: Literal["C", "C_compat", "unstated", "none"]
    benchmarks: dict[str, BenchmarkSheet] = Field(min_length=1)


class StudyFile(_Strict):
    """`study.yaml`: what is searched, and how. Finetunes are looked up in a table, or are done."""

    name: Name
    title: str = ""
    table: FileName | None = None
    training: Recipe | None = None
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


def shipped(kind: str) -> dict[str, Path]:
    """What acsearch's own `studies` package holds of this file, by its folder: "law_v1", "micro/truth"."""
    root = Path(str(resources.files("studies")))
    return {path.parent.relative_to(root).as_posix(): path for path in sorted(root.rglob(kind))}


def load_study(study: str) -> StudyConfig:
    """Read a study from a folder, a `study.yaml`, or by the name of a shipped one. Raises ConfigError, TableError."""
    path = _locate(study, "study.yaml", "study")
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


def blank_table(file: StudyFile, recipe: Recipe) -> Table:
    """Candidates that are yet to be scored and finetuned, on benchmarks of known scales. Raises ConfigError."""
    from evals.benchmarks import benchmark  # here, because only studies that train need it

    scales = tuple(Benchmark(name, (one := benchmark(name)).floor, one.ceiling) for name in recipe.benchmarks)
    sheet = Sheet(
        alignment=recipe.alignment.definition,
        correspondence=recipe.correspondence.definition if recipe.correspondence else "none",
        llm=recipe.llm,
        source=f"trained and evaluated by this study (training {recipe.digest[:12]})",
        title=file.title,
        benchmarks=scales,
    )
    unknown = np.full((len(recipe.names), len(scales)), np.nan)
    return Table(file.name, recipe.names, unknown, unknown, unknown[:, 0], unknown, sheet)


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
        raise ConfigError(f"--{_first_problem(error, StudyFile)}") from error


def load_table(table: str) -> Table:
    """Read a table from a CSV file, a folder with a `table.csv`, or by the name of a shipped one. Raises TableError."""
    path = _locate(table, "table.csv", "table")
    sheet_path = path.with_suffix(".yaml")
    alone = path.resolve().parent.name if path.name == "table.csv" else path.name
    name = next((name for name, place in shipped("table.csv").items() if place == path), alone)
    sheet = None
    if sheet_path.exists():
        described = read_yaml(sheet_path, TableSheet)
        scales = tuple(Benchmark(name, scale.floor, scale.ceiling) for name, scale in described.benchmarks.items())
        sheet = Sheet(
            described.alignment, described.correspondence, described.llm, described.source, described.title, scales
        )
    return replace(parse_table(_read_text(path, TableError), str(path), sheet), name=name)


def _locate(given: str, file_name: str, what: str) -> Path:
    known = shipped(file_name)
    if given in known:
        return known[given]
    path, error = Path(given), TableError if what == "table" else ConfigError
    if given and _is(Path.is_dir, path):
        if not (path / file_name).is_file():
            raise error(f"no {what} in the folder {given!r}: it has no file {file_name}")
        return path / file_name
    if _is(Path.is_file, path):
        return path
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; shipped with acsearch: {', '.join(known)}"
    raise error(f"no {what} {given!r}: neither a file or folder that exists nor a shipped name{hint}")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """`path.is_file()` or `path.is_dir()`, where a path that cannot exist (a name too long) is not one either."""
    try:
        return kind(path)
    except OSError:
        return False


def _read_text(path: Path, error: type[AcsearchError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 text (byte {problem.start})") from problem
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from problem


def read_yaml(path: Path, model: type[Model]) -> Model:
    """One YAML file as a strict model. Raises ConfigError naming file and key."""
    try:
        data = parse_yaml(_read_text(path, ConfigError))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path}: expected keys and values, found {found}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error, model)}") from error


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first unknown key, which is often why another one is missing; else the first problem of any kind."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        known = list(model.model_fields) + list(BenchmarkSheet.model_fields if model is TableSheet else ())
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")
    if problem["type"] == "missing":
        return f"key {where!r} is missing"
    if problem["type"] == "value_error":  # our own checks say what was given
        return f"{where}: {problem['ctx']['error']}" if problem["loc"] else str(problem["ctx"]["error"])
    return f"{where}: {problem['msg']}, got {shown(problem['input'])}"


def shown(value: object) -> str:
    """A value for a message: what is long or nested is cut before it is written out, since YAML can nest billions."""
    return f"{reprlib.repr(value):.80}"


Size = Annotated[float, Field(ge=1e-4, le=1000)]  # in units of a benchmark's scale; beyond, matrices get singular


class PriorFile(_Strict):
    """A prior of the Bayesian law; see `acsearch.law.prior.Prior`."""

    provenance: str = Field(min_length=1)
    alignment: list[str] = Field(min_length=1)
    correspondence: list[str] = Field(min_length=1)
    mean: dict[str, Annotated[float, Field(ge=-1000, le=1000)]]
    sd: dict[str, Size]
    term_sets: dict[str, Size] = Field(min_length=1)
    sharing: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1, max_length=20)
    misfit: list[Size] = Field(min_length=1, max_length=20)
    correlation: list[Annotated[float, Field(ge=0, le=0.999)]] = Field(min_length=1, max_length=20)
    noise: Size
    shape: float = Field(gt=1, le=1e6)
    rate: float = Field(ge=1e-6, le=1e6)
    scale_median: Size
    scale_spread: Size

    @model_validator(mode="after")
    def _every_term(self) -> PriorFile:
        for key, given in (("mean", self.mean), ("sd", self.sd)):
            if set(given) != set(FULL):
                raise ValueError(f"{key} must give exactly {', '.join(FULL)}, not {', '.join(given) or 'nothing'}")
        return self

    @model_validator(mode="after")
    def _known_terms(self) -> PriorFile:
        for terms in self.term_sets:
            unknown = set(terms.split("+")) - {*FULL}
            if unknown and terms != "full":
                raise ValueError(
                    f"term_sets: no term {min(unknown)!r} in {terms!r}; join {', '.join(FULL)} by +, or 'full' for all"
                )
        return self


def priors() -> dict[str, Path]:
    """The priors that ship with acsearch, by name."""
    return {path.stem: path for path in sorted(Path(str(resources.files("acsearch.law"))).glob("priors/*.yaml"))}


def load_prior(prior: str) -> Prior:
    """Read a prior by the name of a shipped one or from a YAML file. Raises ConfigError."""
    path = priors().get(prior, Path(prior))
    if not _is(Path.is_file, path):
        raise ConfigError(f"no prior {prior!r}: neither a file that exists nor one of {', '.join(priors())}")
    file = read_yaml(path, PriorFile)
    return Prior(
        name=path.stem,
        provenance=file.provenance,
        alignment=tuple(file.alignment),
        correspondence=tuple(file.correspondence),
        mean=tuple(file.mean[term] for term in FULL),
        sd=tuple(file.sd[term] for term in FULL),
        term_sets=tuple((parse_terms(terms), weight) for terms, weight in file.term_sets.items()),
        sharing=tuple(file.sharing),
        misfit=tuple(file.misfit),
        correlation=tuple(file.correlation),
        noise=file.noise,
        shape=file.shape,
        rate=file.rate,
        scale_median=file.scale_median,
        scale_spread=file.scale_spread,
    )


def write_prior(path: Path, prior: Prior) -> None:
    """Write a prior that `load_prior` reads back. Raises ConfigError when it would not, or cannot be written."""
    data = {
        "provenance": prior.provenance,
        "alignment": list(prior.alignment),
        "correspondence": list(prior.correspondence),
        "mean": dict(zip(FULL, prior.mean, strict=True)),
        "sd": dict(zip(FULL, prior.sd, strict=True)),
        "term_sets": {"+".join(terms): weight for terms, weight in prior.term_sets},
        "sharing": list(prior.sharing),
        "misfit": list(prior.misfit),
        "correlation": list(prior.correlation),
        "noise": prior.noise,
        "shape": prior.shape,
        "rate": prior.rate,
        "scale_median": prior.scale_median,
        "scale_spread": prior.scale_spread,
    }
    try:
        PriorFile.model_validate(data)
        with path.open("x", encoding="utf-8") as file:
            yaml.safe_dump(data, file, sort_keys=False)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: not a usable prior: {_first_problem(error, PriorFile)}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
