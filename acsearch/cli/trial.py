"""The commands of `acsearch trial`: one piece of a study's work, here and now. What is done already is not repeated.

Jobs run them. Asked to stop by SIGTERM, SIGUSR1 or SIGUSR2, they commit a checkpoint and end with exit code 75.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from acsearch.cli.options import NameArgument, Storage, open_study
from acsearch.storage.home import Home

if TYPE_CHECKING:
    from acsearch.runners.base import Runner
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
    with _work(home, name) as (study, finetunes):
        study.finetune_one(trial, finetunes, _say, home.claim_timeout)


@app.command()
def score(
    name: NameArgument,
    candidate: Annotated[int, typer.Argument(min=0, metavar="CANDIDATE", help="Its place in the study file, from 0.")],
    storage: Storage = None,
) -> None:
    """Measure A and C of a candidate."""
    home = Home(storage)
    with _work(home, name) as (study, finetunes):
        study.score_one(candidate, finetunes, _say, home.claim_timeout)


@contextmanager
def _work(home: Home, name: str) -> Iterator[tuple[Study, Runner]]:
    from trainers.training import preemption

    with preemption.listening():
        from acsearch.runners.registry import make_runner

        study = open_study(home, name)
        yield study, make_runner(study.source, home.work, home.store)


def _say(event: Event) -> None:
    """A line for each new thing, for the job's log."""
    text = f": {event.text}" if event.text else ""
    typer.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {event.kind} {event.representation}{text}")
