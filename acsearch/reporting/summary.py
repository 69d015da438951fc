"""What a study found, in sentences and rows, for the console, the MLflow record and the HTML report."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from acsearch.law.bayes import HierarchicalLaw
from acsearch.law.diagnostics import finetuned_r2
from acsearch.study.snapshot import Snapshot, Step
from acsearch.tables.spreadsheet import spreadsheet_csv
from trainers.errors import printable

_MARKDOWN = re.compile(r"[\\`*_\[\]|~]")  # what begins code, emphasis, links, images and cells
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_HTML = re.compile("[&<>]")


def ranking(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Rank all candidates.

    Returns:
        One row for each candidate, by expected objective, with the keys `representation`, `expected`, `low_80`,
        `high_80`, `p_best`, `p_top3`, `finetuned`, `standard_error` (None where it is not known), `A` and `C` (None
        where it is not known). Objectives are in `snapshot.unit`. Before all candidates are scored, rows are in the
        order of the study and have only `representation`, `finetuned`, and the `A` and `C` that are known.
    """
    if not snapshot.is_scored:
        return [
            {"representation": name, "finetuned": False, "A": _number(float(a)), "C": _number(float(c))}
            for name, a, c in zip(
                snapshot.table.representations,
                snapshot.table.alignment @ snapshot.weights,
                snapshot.table.correspondence,
                strict=True,
            )
        ]
    step = snapshot.steps[-1]
    advice = step.recommendation
    scores = {record.candidate: record for record in snapshot.finished}
    mean, low, high = (snapshot.display(values) for values in (advice.mean, advice.low, advice.high))
    rows = []
    for row in np.lexsort((-advice.p_best, -advice.mean)).tolist():
        table = snapshot.table
        rows.append(
            {
                "representation": table.representations[row],
                "expected": float(mean[row]),
                "low_80": float(low[row]),
                "high_80": float(high[row]),
                "p_best": float(advice.p_best[row]),
                "p_top3": float(advice.p_top3[row]),
                "finetuned": row in scores,
                "standard_error": snapshot.displayed_error(scores[row]) if row in scores else None,
                "A": float(table.alignment[row] @ snapshot.weights),
                "C": None if math.isnan(table.correspondence[row]) else float(table.correspondence[row]),
            }
        )
    return rows


def interval(row: dict[str, Any]) -> str:
    """Format the uncertainty of a row of the ranking: its 80 % interval, or the standard error of a finetuned one."""
    if row["finetuned"]:
        return "" if row["standard_error"] is None else f"± {row['standard_error']:.2f}"
    return f"{row['low_80']:.2f} to {row['high_80']:.2f}"


def law_summary(snapshot: Snapshot, step: Step) -> dict[str, Any]:
    """Summarise the law after a step.

    Returns:
        `finetunes`, their number; `r2` and leave-one-out `r2_loo`, None where they are not defined; `terms`, the
        probability of each set of terms; and `weights`, by benchmark and term, with the keys `mean`, `low_80` and
        `high_80` in points of the benchmark.
    """
    r2, r2_loo = finetuned_r2(HierarchicalLaw(snapshot.prior), snapshot.features, step.posterior)
    weights = step.posterior.weight_intervals(0.8)
    return {
        "finetunes": step.number,
        "r2": _number(r2),
        "r2_loo": _number(r2_loo),
        "terms": step.posterior.term_weights,
        "weights": {
            name: {
                term: dict(
                    zip(("mean", "low_80", "high_80"), (values[:, b] * snapshot.table.span[b]).tolist(), strict=True)
                )
                for term, values in weights.items()
                if term != "1"
            }
            for b, name in enumerate(snapshot.table.benchmarks)
        },
    }


def headline(snapshot: Snapshot) -> list[str]:
    """State the recommendation in a few sentences."""
    best, table = snapshot.best, snapshot.table
    if best is None:
        return ["No finetune has finished yet."]
    step = snapshot.steps[-1]
    advice, total = step.recommendation, len(table.representations)
    shortlist = [table.representations[row] for row in advice.order[:3].tolist() if advice.p_best[row] > 0]
    at_stake, nothing = snapshot.display(np.array([advice.expected_regret, 0.0]))
    return [
        f"Best finetuned: {best.representation} at {snapshot.displayed_objective(best):.2f} ({snapshot.unit}), "
        f"best of all with probability {advice.p_best[best.candidate]:.2f}.",
        f"Most likely to hold the best: {', '.join(shortlist)}. {len(advice.credible_set)} "
        f"{'candidate holds' if len(advice.credible_set) == 1 else 'candidates hold'} it with probability 0.9.",
        f"Expected loss from stopping here: {at_stake - nothing:.2f}.",
        f"Cost: {step.number} finetunes of {total}, {total - step.number} spared "
        f"({100 * (1 - step.number / total):.0f} %).",
    ]


def caveats(snapshot: Snapshot) -> list[str]:
    """State what a reader must know to interpret the numbers."""
    metadata = snapshot.table.metadata
    notes = [
        f"A is {metadata.alignment}, C is {metadata.correspondence}, the LLM {metadata.llm}. "
        f"Source: {metadata.source}.",
        "The law tells families of representations apart better than neighbours: read the intervals, not the order.",
        "Each candidate is finetuned once; how much a second run would differ is assumed, not measured "
        f"(sd {snapshot.prior.noise:g} of a benchmark's scale).",
    ]
    if any(snapshot.displayed_error(record) for record in snapshot.finished):
        notes.append("± is a finetuned score's standard error: another set of as many questions would differ by that.")
    if not metadata.stated:
        notes.insert(
            0, "No metadata describes this table: definitions are unknown and each benchmark's scale was guessed."
        )
    if not snapshot.table.has_correspondence:
        notes.append("C is not known for every candidate, so the law goes by A alone.")
    return notes


def markdown(snapshot: Snapshot) -> str:
    """Write the description of the study on its MLflow page, as Markdown in which names and sources are mere text."""
    text = as_markdown
    lines = [f"## {text(snapshot.title or snapshot.name)}", "", *(f"- {text(line)}" for line in headline(snapshot)), ""]
    lines += [
        "| representation | expected | 80 % interval | P(best) | P(top 3) | finetuned |",
        "|---|---|---|---|---|---|",
    ]
    for row in ranking(snapshot)[:15]:
        chances = f"{row['p_best']:.2f} | {row['p_top3']:.2f}"
        done = "yes" if row["finetuned"] else ""
        lines.append(
            f"| {text(row['representation'])} | {row['expected']:.2f} | {interval(row)} | {chances} | {done} |"
        )
    return "\n".join([*lines, "", *(f"*{text(line)}*  " for line in caveats(snapshot))])


def as_markdown(text: str) -> str:
    """Text as Markdown that shows it: no link, image, table cell or HTML begins in it, and it stays on its line."""
    line = printable(" ".join(text.split()))
    return _HTML.sub(lambda one: _ENTITIES[one[0]], _MARKDOWN.sub(r"\\\g<0>", line))


def recommendation_csv(snapshot: Snapshot) -> str:
    """All candidates by P(best), as a table for spreadsheets."""
    advice = snapshot.steps[-1].recommendation
    finetuned = {record.candidate for record in snapshot.finished}
    columns = [snapshot.display(values) for values in (advice.mean, advice.low, advice.high)]
    rows = [["representation", "p_best", "p_top3", "expected", "low_80", "high_80", "finetuned"]]
    for row in advice.order.tolist():
        numbers = [f"{advice.p_best[row]:.4f}", f"{advice.p_top3[row]:.4f}", *(f"{c[row]:.3f}" for c in columns)]
        rows.append([snapshot.table.representations[row], *numbers, "yes" if row in finetuned else "no"])
    return spreadsheet_csv(rows)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
