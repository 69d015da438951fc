"""Recorded tables as files: a CSV, and a YAML beside it that says what its columns mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from acsearch.errors import TableError
from acsearch.tables.table import LARGEST, UNSTATED, BenchmarkScale, Table, TableMetadata, parse_table
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, read_text, read_yaml
from trainers.utils.suggest import suggest

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
FileName = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Points = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class BenchmarkScaleFile(StrictModel, strict=True):
    floor: Points
    ceiling: Points

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> BenchmarkScaleFile:
        if self.floor >= self.ceiling:
            raise ValueError(f"floor {self.floor:g} must be below ceiling {self.ceiling:g}")
        return self


class TableFile(StrictModel, strict=True):
    """The YAML beside a recorded table."""

    title: str = ""
    source: str = UNSTATED
    llm: str = UNSTATED
    alignment: Literal["A_cos", "A_ll", "A_ll_train", "unstated"]
    correspondence: Literal["C", "C_compat", "unstated", "none"]
    benchmarks: dict[str, BenchmarkScaleFile] = Field(min_length=1)


def shipped(kind: str) -> dict[str, Path]:
    """What acsearch's own `studies` package holds of this file, by its folder: "law_v1", "micro/truth"."""
    root = Path(str(resources.files("studies")))
    return {path.parent.relative_to(root).as_posix(): path for path in sorted(root.rglob(kind))}


def load_table(table: str) -> Table:
    """Read a table from a CSV file, a folder with a `table.csv`, or by the name of a shipped one. Raises TableError."""
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
    """`path.is_file()` or `path.is_dir()`, where a path that cannot exist (a name too long) is not one either."""
    try:
        return kind(path)
    except OSError:
        return False
