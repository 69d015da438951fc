"""Options, arguments and output that several commands share."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from acsearch.redaction import without_secrets
from acsearch.storage.home import Home
from trainers.errors import printable

if TYPE_CHECKING:
    from acsearch.study.stored import StoredStudy

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study; acsearch study list shows them.")]
Storage = Annotated[str | None, typer.Option(help="URL of the Optuna storage; default: SQLite in acsearch-runs/.")]
Tracking = Annotated[str | None, typer.Option(help="Tracking URI of MLflow; default: SQLite in acsearch-runs/.")]
EngineOption = Annotated[Literal["local", "slurm"], typer.Option(help="Run the work here (local) or in Slurm jobs.")]
Parallel = Annotated[int, typer.Option(min=1, help="Finetunes at the same time; with --engine slurm, jobs.")]


def open_study(home: Home, name: str, *, writes: bool = False) -> StoredStudy:
    """Open a study by its name.

    Args:
        home: Where studies are.
        name: Name of the study.
        writes: Whether it will be worked on.

    Raises:
        StudyError: there is none of this name, or its storage cannot be used.
    """
    from acsearch.study.checks import check_name
    from acsearch.study.stored import StoredStudy

    check_name(name)
    return StoredStudy.open(home.open_storage(create=False, writes=writes), home.claims(name), name)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line in which nothing steers the terminal, to stderr with `err`."""
    typer.echo(printable(without_secrets(text)), err=err)


def print_json(data: Any) -> None:
    """Print data as JSON. NaN and infinity, which JSON does not have, become null."""
    echo(json.dumps(finite(data), indent=2))


def finite(data: Any) -> Any:
    """The same data with None in place of NaN and infinity."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
