"""Options, arguments and output that several commands share."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from acsearch.storage.home import Home

if TYPE_CHECKING:
    from acsearch.study.stored import StoredStudy

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A study's name; see acsearch study list.")]
Storage = Annotated[str | None, typer.Option(help="Optuna storage URL; default: SQLite in acsearch-runs/.")]
Tracking = Annotated[str | None, typer.Option(help="MLflow tracking URI; default: SQLite in acsearch-runs/.")]
EngineOption = Annotated[Literal["local", "slurm"], typer.Option(help="Where work is done: here, or as jobs of Slurm.")]
Parallel = Annotated[int, typer.Option(min=1, help="Finetunes at a time; with --engine slurm, jobs at a time.")]


def open_study(home: Home, name: str) -> StoredStudy:
    """A study by its name.

    Raises:
        StudyError: there is none of this name, or its storage cannot be used.
    """
    from acsearch.study.checks import check_name
    from acsearch.study.stored import StoredStudy

    check_name(name)
    return StoredStudy.open(home.open_storage(create=False), home.claims(name), name)


def print_json(data: Any) -> None:
    """Print JSON; NaN, which JSON does not have, becomes null."""
    typer.echo(json.dumps(finite(data), indent=2))


def finite(data: Any) -> Any:
    """The same with NaN, which JSON does not have, as null."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
