"""Recorded tables as files: a CSV, and a YAML file beside it that says what its columns mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from acsearch.errors import TableError
from acsearch.tables.names import normal
from acsearch.tables.table import LARGEST, UNSTATED, BenchmarkScale, Table, TableMetadata, parse_table
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, read_text, read_yaml
from trainers.utils.suggest import suggest

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
FileName = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Points = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class BenchmarkScaleFile(StrictModel, strict=True):
    """Floor and ceiling of a benchmark in the YAML file of a table; see `acsearch.tables.table.BenchmarkScale`."""

    floor: Points
    ceiling: Points

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> BenchmarkScaleFile:
        if self.floor >= self.ceiling:
            raise ValueError(f"floor {self.floor:g} must be below ceiling {self.ceiling:g}")
        return self


class TableFile(StrictModel, strict=True):
    """The keys of the YAML file beside a table; see `acsearch.tables.table.TableMetadata`."""

    title: str = ""
    source: str = UNSTATED
    llm: str = UNSTATED
    alignment: Literal["A_cos", "A_ll", "A_ll_train", "unstated"]
    correspondence: Literal["C", "C_compat", "unstated", "none"]
    benchmarks: dict[str, BenchmarkScaleFile] = Field(min_length=1)

    @field_validator("benchmarks")
    @classmethod
    def _one_spelling(cls, given: dict[str, BenchmarkScaleFile]) -> dict[str, BenchmarkScaleFile]:
        names = [normal(name) for name in given]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is given twice, in two spellings of the same letters")
        return dict(zip(names, given.values(), strict=True))


def shipped(kind: str) -> dict[str, Path]:
    """Find files in the package `studies`, which ships with acsearch.

    Args:
        kind: Name of the file, such as `table.csv`.

    Returns:
        Paths by the name of their folder, such as "law_v1" or "micro/truth".
    """
    root = Path(str(resources.files("studies")))
    return {path.parent.relative_to(root).as_posix(): path for path in sorted(root.rglob(kind))}


def load_table(table: str) -> Table:
    """Read a recorded table.

    Args:
        table: A CSV file, a folder with a `table.csv`, or the name of a table that ships with acsearch.

    Raises:
        TableError: there is no such table, or it cannot be used.
        ConfigError: the YAML file beside it is wrong.
    """
    path = locate(table, "table.csv", "table")
    metadata_path = path.with_suffix(".yaml")
    alone = path.resolve().parent.name if path.name == "table.csv" else path.name
    name = next((name for name, place in shipped("table.csv").items() if place == path), alone)
    metadata = None
    if metadata_path.exists():
        described = read_yaml(metadata_path, TableFile)
        scales = tuple(BenchmarkScale(name, scale.floor, scale.ceiling) for name, scale in described.benchmarks.items())
        metadata = TableMetadata(
            described.alignment, described.correspondence, described.llm, described.source, described.title, scales
        )
    return replace(parse_table(read_text(path, TableError), str(path), metadata), name=name)


def locate(given: str, file_name: str, what: str) -> Path:
    """Find the file of a table or study.

    Args:
        given: A file, a folder that holds it, or the name of one that ships with acsearch.
        file_name: Name of the file in a folder.
        what: `table` or `study`, for error messages.

    Raises:
        TableError: there is no such table.
        ConfigError: there is no such study.
    """
    known = shipped(file_name)
    if given in known:
        return known[given]
    path, error = Path(given), TableError if what == "table" else ConfigError
    if given and exists_as(Path.is_dir, path):
        if not (path / file_name).is_file():
            raise error(f"no {what} in the folder {given!r}: it has no file {file_name}")
        return path / file_name
    if exists_as(Path.is_file, path):
        return path
    hint = f"; {suggest(given, known, 'shipped with acsearch')}"
    raise error(f"no {what} {given!r}: neither a file or folder that exists nor a shipped name{hint}")


def exists_as(kind: Callable[[Path], bool], path: Path) -> bool:
    """Like `path.is_file()` or `path.is_dir()`, but False for a path that cannot exist, for instance too long a name.

    Args:
        kind: `Path.is_file` or `Path.is_dir`.
        path: The path.
    """
    try:
        return kind(path)
    except OSError:
        return False
