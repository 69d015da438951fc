"""What a running study shows in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from acsearch.study.events import (
    Doing,
    Event,
    EventCallback,
    Failed,
    Finetuned,
    Proposed,
    Resumed,
    Scored,
    Scoring,
    Submitted,
    Waiting,
)
from acsearch.study.snapshot import Snapshot
from acsearch.study.stored import StoredStudy
from acsearch.tables.table import Table

console = Console(highlight=False, soft_wrap=True)


def waiting(what: str) -> Status:
    """A spinner while something takes its time."""
    return console.status(what)


@contextmanager
def follow(study: StoredStudy) -> Iterator[EventCallback]:
    """Says what a running study does, line by line, with a spinner in between."""
    before = study.snapshot()
    console.print(
        f"\nStudy [bold]{escape(study.name)}[/]: {len(before.table.representations)} candidates, "
        f"{len(before.table.benchmarks)} benchmarks, budget {before.budget}, policy {before.policy}, objective "
        f"{escape(before.objective)}"
    )
    if before.finished:
        console.print(f"{len(before.finished)} of {before.budget} finetunes are done already.")
    doing, scored = "", int(np.isfinite(before.table.alignment[:, 0]).sum())
    with waiting("starting") as spinner:

        def show(event: Event) -> None:
            nonlocal doing, scored
            name = escape(event.representation)
            match event:
                case Doing(text=text):
                    spinner.update(f"{doing}: {escape(text)}")
                case Scoring():
                    doing = f"scoring {name}"
                    spinner.update(doing)
                case Scored(candidate=row):
                    scored += 1
                    print_scored(study.table, row, scored)
                    spinner.update("choosing the first candidate")
                case Waiting(trial=trial, owner=owner):
                    console.print(f"  [dim]finetune {trial + 1}, {name}, is worked on by {escape(owner)}[/]")
                    spinner.update("waiting for others")
                case Failed(trial=trial, reason=reason):
                    console.print(f"  finetune {trial + 1}  [bold]{name}[/]  [red]failed[/]: {escape(reason)}")
                case Submitted(job=job):
                    spinner.update(f"{name} submitted: {escape(job)}")
                case Finetuned():
                    spinner.update("writing the record")
                    _print_finetuned(study.snapshot(), event)
                    spinner.update("choosing the next candidate")
                case Proposed(trial=trial):
                    doing = f"finetune {trial + 1}, {name}"
                    spinner.update(doing)
                case Resumed(trial=trial):
                    doing = f"finetune {trial + 1}, {name}, again after an interruption"
                    spinner.update(doing)

        yield show


def _print_finetuned(snapshot: Snapshot, event: Finetuned) -> None:
    advice = event.step.recommendation
    likely = int(advice.order[0])
    value = float(snapshot.display(event.step.posterior.objective(snapshot.weights)[0])[event.candidate])
    console.print(
        f"  finetune {event.trial + 1}  [bold]{escape(event.representation)}[/]  {value:.2f}   "
        f"[dim]probably best: {escape(snapshot.table.representations[likely])}, P = {advice.p_best[likely]:.2f}[/]"
    )


def print_scored(table: Table, row: int, done: int) -> None:
    """One line for a candidate whose A and C are known, the `done`th."""
    a, c = float(table.alignment[row].mean()), float(table.correspondence[row])
    shown = "" if math.isnan(c) else f"   C {c:.1f}"
    console.print(
        f"  scored {done} of {len(table.representations)}  {escape(table.representations[row])}   A {a:.3f}{shown}"
    )
