"""What a running study shows in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from acsearch.cli.screen import Screen, bold, dim, red
from acsearch.cli.screen import text as plain
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
from trainers.utils.progress import Heartbeat, Reporter

console = Screen()
_log = Screen(stderr=True)  # so that JSON on the standard output stays JSON


@contextmanager
def waiting(what: str, log: Screen = _log) -> Iterator[Reporter]:
    """A spinner while something takes its time; where no terminal is, a line every 30 seconds in a log."""
    if not console.is_terminal:
        with Heartbeat(lambda line: log.say(dim(f"  {line}")), what) as heartbeat:
            yield heartbeat.update
        return
    with console.status(plain(what)) as spinner:  # of a plain string it would read markup
        yield lambda text: spinner.update(plain(text))


@contextmanager
def follow(study: StoredStudy) -> Iterator[EventCallback]:
    """Says what a running study does, line by line, with a spinner in between."""
    before = study.snapshot()
    console.say(
        "\nStudy ",
        bold(study.name),
        f": {len(before.table.representations)} candidates, {len(before.table.benchmarks)} benchmarks, "
        f"budget {before.budget}, policy {before.policy}, objective {before.objective}",
    )
    if before.finished:
        console.say(f"{len(before.finished)} of {before.budget} finetunes are done already.")
    doing, scored = "", int(np.isfinite(before.table.alignment[:, 0]).sum())
    with waiting("starting", console) as busy:

        def show(event: Event) -> None:
            nonlocal doing, scored
            name = event.representation
            match event:
                case Doing(text=text):
                    busy(f"{doing}: {text}")
                case Scoring():
                    doing = f"scoring {name}"
                    busy(doing)
                case Scored(candidate=row):
                    scored += 1
                    print_scored(study.table, row, scored)
                    busy("choosing the first candidate")
                case Waiting(trial=trial, owner=owner):
                    console.say(dim(f"  finetune {trial + 1}, {name}, is worked on by {owner}"))
                    busy("waiting for others")
                case Failed(trial=trial, reason=reason):
                    console.say(f"  finetune {trial + 1}  ", bold(name), "  ", red("failed"), f": {reason}")
                case Submitted(job=job):
                    busy(f"{name} submitted: {job}")
                case Finetuned():
                    busy("writing the record")
                    _print_finetuned(study.snapshot(), event)
                    busy("choosing the next candidate")
                case Proposed(trial=trial):
                    doing = f"finetune {trial + 1}, {name}"
                    busy(doing)
                case Resumed(trial=trial):
                    doing = f"finetune {trial + 1}, {name}, again after an interruption"
                    busy(doing)

        yield show


def _print_finetuned(snapshot: Snapshot, event: Finetuned) -> None:
    advice = event.step.recommendation
    likely = int(advice.order[0])
    value = float(snapshot.display(event.step.posterior.objective(snapshot.weights)[0])[event.candidate])
    console.say(
        f"  finetune {event.trial + 1}  ",
        bold(event.representation),
        f"  {value:.2f}   ",
        dim(f"probably best: {snapshot.table.representations[likely]}, P = {advice.p_best[likely]:.2f}"),
    )


def print_scored(table: Table, row: int, done: int) -> None:
    """One line for a candidate whose A and C are known, the `done`th."""
    a, c = float(table.alignment[row].mean()), float(table.correspondence[row])
    shown = "" if math.isnan(c) else f"   C {c:.1f}"
    console.say(f"  scored {done} of {len(table.representations)}  {table.representations[row]}   A {a:.3f}{shown}")
