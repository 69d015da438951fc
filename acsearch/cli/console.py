"""What the commands show in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acsearch.cli.progress import console as _console
from acsearch.cli.progress import print_scored
from acsearch.cli.screen import bold, dim, yellow
from acsearch.redaction import redact
from acsearch.reporting.summary import caveats, headline, interval, ranking
from acsearch.study.snapshot import FinetuneRecord, Snapshot
from acsearch.study.stored import StoredStudy
from acsearch.study.times import parse
from acsearch.tables.table import Table

if TYPE_CHECKING:
    from acsearch.law.diagnostics import LawFit
    from acsearch.policies.replay import Estimate, Replay
    from acsearch.reporting.mlflow_record import Changes
    from acsearch.runners.plan import Plan
    from acsearch.storage.home import Home

_SHOWN = 15


def _print_guess(table: Table) -> None:
    if not table.metadata.stated:
        scales = ", ".join(f"{b.name} {b.floor:g} to {b.ceiling:g}" for b in table.metadata.benchmarks[:3])
        more = ", ..." if len(table.benchmarks) > 3 else ""
        _console.say(
            yellow("No metadata beside this table"),
            f": definitions of A and C unstated, scales guessed ({scales}{more}).",
        )


def law_fit(table: Table, fit: LawFit, *, weights: bool) -> None:
    """Diagnostics per benchmark and on average."""
    _print_guess(table)
    found = {name: [b.r2, b.r2_adjusted, b.r2_loo, b.r2_noise, b.coverage_80] for name, b in fit.benchmarks.items()}
    rows = []
    for name, numbers in [*found.items(), ("mean", list(fit.mean.values()))]:
        coverage = "–" if math.isnan(numbers[4]) else f"{100 * numbers[4]:.0f} %"
        rows.append([name, *(_share(value) for value in numbers[:4]), coverage])
    _console.say(
        "\nThe law on ",
        bold(table.name),
        f", surrogate {fit.surrogate}, {len(table.representations)} representations\n",
    )
    header = ["benchmark", "R²", "adjusted", "left-out", "on noise", "80 % covers"]
    _console.show_table(header, rows, strong=[len(rows) - 1])
    terms = ", ".join(f"{terms} {weight:.2f}" for terms, weight in fit.term_weights.items() if weight >= 0.005)
    _console.say(f"\nTerms, with their probability: {terms}")
    if weights:
        first = next(iter(fit.benchmarks.values()))
        _console.say("\nWeights in points, with 80 % intervals")
        _console.show_table(
            ["benchmark", *first.weights],
            [
                [name, *(f"{i.estimate:.1f} ({i.low:.1f}, {i.high:.1f})" for i in one.weights.values())]
                for name, one in fit.benchmarks.items()
            ],
        )


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def replay(table: Table, results: Sequence[Replay], *, first_hit: bool) -> None:
    """Policies side by side, then the first one per benchmark."""
    _print_guess(table)
    first = results[0]
    pools = (
        f"{first.repeats} random pools of {first.subset}"
        if first.subset < len(table.representations)
        else (f"{first.repeats} searches over all {first.subset}")
    )
    if first_hit:
        _console.say("\n", bold(table.name), f", {pools}: finetunes until the top three first held the best\n")
        columns = {"first_hit": "mean n", "within_budget": f"within {first.budget}"}
    else:
        _console.say("\n", bold(table.name), f", {pools}, after exactly {first.budget} finetunes\n")
        columns = {
            "recall@1": "recall@1",
            "recall@3": "recall@3",
            "finetuned": "was finetuned",
            "regret": "regret, points",
            "regret_sd": "regret, sd of mean",
        }
    _console.show_table(
        ["policy", *columns.values()],
        [[result.policy, *(_estimate(result.mean[key]) for key in columns)] for result in results],
        strong=[0],
    )
    _console.say("\n", bold(first.policy), " per benchmark\n")
    columns.pop("regret_sd", None)
    _console.show_table(
        ["benchmark", *columns.values()],
        [[name, *(_estimate(row[key]) for key in columns)] for name, row in first.benchmarks.items()],
    )
    if first_hit:
        _console.say(
            "\n",
            yellow("This count flatters"),
            ": it stops at the first success, which only an oracle sees. "
            "Use the default, --statistic exact, to judge a policy.",
        )


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}" + ("" if math.isnan(estimate.error) else f" ± {estimate.error:.3f}")


def plan(plan: Plan) -> None:
    """What will run, and what it takes."""
    hardware = plan.hardware
    _console.say(
        "\nStudy ",
        bold(plan.study),
        f": {len(plan.candidates)} candidates, budget {plan.budget}, on {hardware.gpus} x {hardware.name} at "
        f"{100 * hardware.utilisation:.0f} % of {hardware.tflops:.3g} TFLOP/s; LLM of {_count(plan.llm_weights)} "
        f"weights\n",
    )
    _console.show_table(
        ["representation", "grid", "tokens", "connector", "stage 1", "stage 2", "evaluation", "memory"],
        [
            [
                one.representation,
                f"{one.grid[0]} x {one.grid[1]} x {one.width}",
                f"{one.tokens}",
                _count(one.weights),
                _hours(one.align.hours),
                _hours(one.finetune.hours),
                _hours(one.evaluation),
                _size(max(one.align.memory_gb, one.finetune.memory_gb)),
            ]
            for one in plan.candidates
        ],
    )
    total, whole, most = plan.scoring + plan.finetuning, plan.scoring + plan.everything, _hours(plan.finetuning_most)

    def spent(hours: float) -> str:
        return f", {hours * hardware.gpus:.3g} GPU-hours" if hardware.kind == "GPU" else ""

    _console.say(
        f"\n  index                    {_hours(plan.index)} of one core, once"
        f"\n  score all candidates     {_hours(plan.scoring)}   (correspondence, stage 1, alignment)"
        f"\n  finetune {plan.budget:<15} {_hours(plan.finetuning)}   (evaluated; at most {most})"
        f"\n  in all                   {_hours(total)}{spent(total)}; finetuning every candidate: "
        f"{_hours(whole)}{spent(whole)}"
        f"\n  memory                   {_size(plan.memory_gb)} of {_size(hardware.memory_gb)} per process"
        f"\n  disk                     {_size(plan.disk_gb)}"
        "\n\n",
        dim("  Reckoned from shapes, at that share of the peak; libraries (1 GB) come on top."),
    )
    if plan.memory_gb > hardware.memory_gb:
        _console.say("  ", yellow("It will not fit"), ": lower micro_batch, set recompute: full or shard: true")


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.3g} min" if hours >= 1 / 60 else f"{3600 * hours:.2g} s"


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.3g} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.0f} MB"


def _count(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def summary(snapshot: Snapshot) -> None:
    """The closing summary: recommendation, ranking, cost."""
    if not snapshot.is_scored:
        _console.say("\nStudy ", bold(snapshot.name), ": its candidates are still being scored\n")
        for done, scored in enumerate(np.flatnonzero(np.isfinite(snapshot.table.alignment[:, 0])).tolist(), 1):
            print_scored(snapshot.table, scored, done)
        return
    order = {record.representation: f"#{place}" for place, record in enumerate(snapshot.finished, 1)}
    rows = ranking(snapshot)
    _console.say("\n", bold(snapshot.title or snapshot.name), "  ", dim(f"({snapshot.unit})"), "\n")
    _console.show_table(
        ["representation", "expected", "80 % interval", "P(best)", "P(top 3)", "finetuned"],
        [
            [
                row["representation"],
                f"{row['expected']:.2f}",
                interval(row),
                f"{row['p_best']:.2f}",
                f"{row['p_top3']:.2f}",
                order.get(row["representation"], ""),
            ]
            for row in rows[:_SHOWN]
        ],
        strong=[place for place, row in enumerate(rows[:_SHOWN]) if row["finetuned"]],
    )
    if len(rows) > _SHOWN:
        _console.say(dim(f"... and {len(rows) - _SHOWN} more; acsearch study show {snapshot.name} --json"))
    _console.say()
    for line in headline(snapshot):
        _console.say(f"  {line}")
    _console.say()
    for line in caveats(snapshot):
        _console.say(dim(f"  {line}"))


def synced(changes: Changes) -> None:
    """What was done to a record."""
    untrue_runs(changes)
    new, completed = len(changes.added) - len(changes.replaced), sorted(changes.completed - changes.added)
    if new > 0:
        _console.say(f"added {new} runs")
    if completed:
        _console.say(f"brought up to date: {_some(completed)}")
    if not (changes.removed or changes.added or completed):
        _console.say("the record says what the study says; nothing was changed")


def untrue_runs(changes: Changes) -> None:
    """The runs of a record that were not true."""
    for what, lines in (("removed", changes.removed), ("replaced", changes.replaced)):
        for line in lines[:_SHOWN]:
            _console.say(f"{what} the run {line}")
        if len(lines) > _SHOWN:
            _console.say(f"{what} {len(lines) - _SHOWN} more runs")


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def where(home: Home, study: StoredStudy, missing: str | None) -> None:
    """Where to look further.

    Args:
        home: where the study lives.
        study: the study.
        missing: why the MLflow record is not up to date; None where it is.
    """
    _console.say(f"\n  report   acsearch study report {study.name}")
    if missing is not None:
        _console.say(yellow(f"  MLflow   not up to date: {missing}"))
        _console.say(f"           acsearch study sync {study.name}   brings it up to date")
        return
    address = home.tracking_uri
    place = f"{'mlflow ui --backend-store-uri ' if address.startswith('sqlite') else ''}{redact(address)}"
    _console.say(f"  MLflow   {place}   ", dim(f"(run {study.runs[f'study/{study.name}']})"))


def status(snapshot: Snapshot, logs: Path) -> None:
    """One line per finetune, and what was said last of those that are not done.

    Args:
        snapshot: of the study.
        logs: folder of the logs of jobs.
    """
    done = f": {len(snapshot.finished)} of {snapshot.budget} finetunes done\n"
    _console.say("\nStudy ", bold(snapshot.name), done)
    rows = []
    for record in snapshot.finetunes:
        value = "" if record.objective is None else f"{snapshot.displayed_objective(record):.2f}"
        name, tries = record.representation or "not chosen yet", len(record.attempts)
        place = record.owner or (str(record.submission) if record.submission and record.finished is None else "")
        rows.append([f"{record.trial + 1}", name, record.state, value, f"{tries or ''}", place])
    _console.show_table(["finetune", "representation", "state", "objective", "attempts", "where"], rows, names=(1, 5))
    for record in snapshot.finetunes:
        if record.state != "complete":
            _print_last_words(record, logs)
    if not snapshot.is_over:
        _console.say(f"\nGo on with: acsearch study resume {snapshot.name}")
    waiting(snapshot)


def waiting(snapshot: Snapshot) -> None:
    """What somebody enqueued and the budget does not allow."""
    beyond = [record.trial for record in snapshot.finetunes[snapshot.budget :] if record.state == "waiting"]
    if beyond:
        numbers = ", ".join(str(trial + 1) for trial in beyond)
        enqueued = yellow(f"\n  Enqueued beyond the budget of {snapshot.budget}")
        _console.say(enqueued, f": finetune {numbers}; run them with")
        _console.say(f"  acsearch study resume {snapshot.name} --budget {snapshot.budget + len(beyond)}")


def _print_last_words(record: FinetuneRecord, logs: Path) -> None:
    ended = [attempt for attempt in record.attempts if attempt.outcome]
    if ended:
        when = parse(ended[-1].ended or ended[-1].began)
        said = f"{ended[-1].outcome} on {ended[-1].who}, {when:%Y-%m-%dT%H:%M:%S}"
        _console.say(f"\nfinetune {record.trial + 1}: {said}")
        _console.say(dim(f"  {ended[-1].error or ''}"))
    if record.submission:
        for line in record.submission.last_lines(logs):
            _console.say(dim(f"  {line}"))


def studies(snapshots: Sequence[Snapshot], unreadable: Mapping[str, str]) -> None:
    """One line per study.

    Args:
        snapshots: of the studies that can be read.
        unreadable: why the others cannot, by name.
    """
    rows = [
        [
            s.name,
            f"{s.started:%Y-%m-%d %H:%M}",
            f"{len(s.finished)} of {s.budget}",
            s.best.representation if s.best else "",
        ]
        for s in snapshots
    ]
    rows += [[name, "", "", "cannot be read, see below"] for name in unreadable]
    _console.show_table(["study", "started", "finetunes", "best finetuned"], rows, names=(0, 3))
    for error in unreadable.values():
        _console.say(error)
