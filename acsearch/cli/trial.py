"""The commands of `acsearch trial`: one piece of a study's work, here and now. What is done already is not repeated.

Jobs run them. Asked to stop by SIGTERM, SIGUSR1 or SIGUSR2, they commit a checkpoint and end with exit code 75.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from acsearch.cli.options import NameArgument, Storage, echo, open_study
from acsearch.storage.home import Home

if TYPE_CHECKING:
    from acsearch.study.events import Event
    from acsearch.study.study import Study

app = typer.Typer(help="One piece of a study's work, as jobs do it.", no_args_is_help=True)


@app.command()
def run(
    name: NameArgument,
    trial: Annotated[int, typer.Argument(min=0, metavar="TRIAL", help="Its number, from 0.")],
    storage: Storage = None,
) -> None:
    """Finetune and evaluate the candidate of a trial, and tell its scores."""
    home = Home(storage)
    with _study(home, name) as study:
        study.finetune_one(trial, home.claim_timeout)


@app.command()
def score(
    name: NameArgument,
    candidate: Annotated[int, typer.Argument(min=0, metavar="CANDIDATE", help="Its place in the study file, from 0.")],
    storage: Storage = None,
) -> None:
    """Measure A and C of a candidate."""
    home = Home(storage)
    with _study(home, name) as study:
        study.score_one(candidate, home.claim_timeout)


@contextmanager
def _study(home: Home, name: str) -> Iterator[Study]:
    """The study, to be worked on, with signals listened to."""
    from trainers.ranks import preemption

    with preemption.listening():
        from acsearch.runners.registry import make_runner
        from acsearch.study.study import Study

        stored = open_study(home, name, writes=True)
        yield Study(stored, make_runner(stored.source, home.work, home.store), _print_event)


def _print_event(event: Event) -> None:
    """A line for each new thing, for the job's log."""
    text = f": {event.detail}" if event.detail else ""
    echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {type(event).__name__.lower()} {event.representation}{text}")
