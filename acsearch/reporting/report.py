"""What a study found, for people: a Markdown card for MLflow, a summary of the law, and an HTML page with figures."""

from __future__ import annotations

import html
import io
import math
from typing import Any

import numpy as np

from acsearch.errors import StudyError
from acsearch.law.bayes import HierarchicalLaw
from acsearch.law.diagnostics import finetuned_r2
from acsearch.study.snapshot import Snapshot, Step


def ranking(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All candidates by expected objective: interval, P(best), P(top 3), its error where finetuned, A and C.

    Before all of them are scored: in the study's order, with the A and C that are known.
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
                "standard_error": snapshot.error(scores[row]) if row in scores else None,
                "A": float(table.alignment[row] @ snapshot.weights),
                "C": None if math.isnan(table.correspondence[row]) else float(table.correspondence[row]),
            }
        )
    return rows


def interval(row: dict[str, Any]) -> str:
    """The 80 % interval of a row of the ranking; of a candidate that was finetuned, its score's standard error."""
    if row["finetuned"]:
        return "" if row["standard_error"] is None else f"± {row['standard_error']:.2f}"
    return f"{row['low_80']:.2f} to {row['high_80']:.2f}"


def law_summary(snapshot: Snapshot, step: Step) -> dict[str, Any]:
    """What the law says after a step, as numbers: fit, terms, and each benchmark's weights in points."""
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
    """The recommendation in a few sentences."""
    best, table = snapshot.best, snapshot.table
    if best is None:
        return ["No finetune has finished yet."]
    step = snapshot.steps[-1]
    advice, total = step.recommendation, len(table.representations)
    shortlist = [table.representations[row] for row in advice.order[:3].tolist() if advice.p_best[row] > 0]
    at_stake, nothing = snapshot.display(np.array([advice.expected_regret, 0.0]))
    return [
        f"Best finetuned: {best.representation} at {snapshot.shown(best):.2f} ({snapshot.unit}), best of all with "
        f"probability {advice.p_best[best.candidate]:.2f}.",
        f"Most likely to hold the best: {', '.join(shortlist)}. {len(advice.credible_set)} "
        f"{'candidate holds' if len(advice.credible_set) == 1 else 'candidates hold'} it with probability 0.9.",
        f"Expected loss from stopping here: {at_stake - nothing:.2f}.",
        f"Cost: {step.number} finetunes of {total}, {total - step.number} spared "
        f"({100 * (1 - step.number / total):.0f} %).",
    ]


def caveats(snapshot: Snapshot) -> list[str]:
    """What a reader must know to weigh the numbers."""
    metadata = snapshot.table.metadata
    notes = [
        f"A is {metadata.alignment}, C is {metadata.correspondence}, the LLM {metadata.llm}. "
        f"Source: {metadata.source}.",
        "The law tells families of representations apart better than neighbours: read the intervals, not the order.",
        "Each candidate is finetuned once; how much a second run would differ is assumed, not measured "
        f"(sd {snapshot.prior.noise:g} of a benchmark's scale).",
    ]
    if any(snapshot.error(record) for record in snapshot.finished):
        notes.append("± is a finetuned score's standard error: another set of as many questions would differ by that.")
    if not metadata.stated:
        notes.insert(
            0, "No metadata describes this table: definitions are unknown and each benchmark's scale was guessed."
        )
    if not snapshot.table.has_correspondence:
        notes.append("C is not known for every candidate, so the law goes by A alone.")
    return notes


def markdown(snapshot: Snapshot) -> str:
    """The card on the study's MLflow page."""
    lines = [f"## {snapshot.title or snapshot.name}", "", *(f"- {line}" for line in headline(snapshot)), ""]
    lines += [
        "| representation | expected | 80 % interval | P(best) | P(top 3) | finetuned |",
        "|---|---|---|---|---|---|",
    ]
    for row in ranking(snapshot)[:15]:
        chances = f"{row['p_best']:.2f} | {row['p_top3']:.2f}"
        done = "yes" if row["finetuned"] else ""
        lines.append(f"| {row['representation']} | {row['expected']:.2f} | {interval(row)} | {chances} | {done} |")
    return "\n".join([*lines, "", *(f"*{line}*  " for line in caveats(snapshot))])


def page(snapshot: Snapshot) -> str:
    """A self-contained HTML report. Raises StudyError before all candidates are scored."""
    if not snapshot.is_scored:
        raise StudyError(f"study {snapshot.name!r}: its candidates are still being scored; there is nothing to report")
    from acsearch.reporting.figures import figures  # here, because only a report needs matplotlib

    law = law_summary(snapshot, snapshot.steps[-1])
    titles = {
        "plane": "The candidates and the law",
        "predicted": "Predictions made before each finetune",
        "p_best": "Who is probably best",
    }
    drawn = [
        f"<figure>{_svg(figure)}<figcaption>{titles[name]}</figcaption></figure>"
        for name, figure in figures(snapshot).items()
    ]
    body = [
        f"<h1>{_e(snapshot.title or snapshot.name)}</h1>",
        f"<p class=muted>Study {_e(snapshot.name)}: {len(snapshot.finished)} of {snapshot.budget} finetunes, policy "
        f"{_e(snapshot.policy)}, prior {_e(snapshot.prior.name)}, seed {snapshot.seed}, started "
        f"{snapshot.started:%Y-%m-%d %H:%M}.</p>",
        "<ul>" + "".join(f"<li>{_e(line)}</li>" for line in headline(snapshot)) + "</ul>",
        "<h2>Ranking</h2>",
        _table(
            ["representation", "expected", "80 % interval", "P(best)", "P(top 3)", "A", "C", "finetuned"],
            [
                [
                    row["representation"],
                    f"{row['expected']:.2f}",
                    interval(row),
                    f"{row['p_best']:.2f}",
                    f"{row['p_top3']:.2f}",
                    f"{row['A']:.3f}",
                    "" if row["C"] is None else f"{row['C']:.2f}",
                    "yes" if row["finetuned"] else "",
                ]
                for row in ranking(snapshot)
            ],
        ),
        *drawn,
        "<h2>Finetunes</h2>",
        _table(
            ["#", "representation", "state", *snapshot.table.benchmarks],
            [
                [str(r.trial + 1), r.representation, r.state]
                + [f"{r.points[name]:.2f}" if r.points else "" for name in snapshot.table.benchmarks]
                for r in snapshot.finetunes
            ],
        ),
        "<h2>The law</h2>",
        f"<p>On the finetuned candidates: R² {_shown(law['r2'])}, R² of left-out predictions {_shown(law['r2_loo'])}. "
        f"So few finetunes say little about the fit; <code>acsearch law fit</code> judges a whole table.</p>",
        _table(["terms", "probability"], [[terms, f"{p:.2f}"] for terms, p in law["terms"].items()]),
        _table(
            ["benchmark", *(next(iter(law["weights"].values())))],
            [
                [name, *(f"{w['mean']:.1f} ({w['low_80']:.1f} to {w['high_80']:.1f})" for w in weights.values())]
                for name, weights in law["weights"].items()
            ],
        ),
        "<p class=muted>Weights in points of the benchmark for the whole range of a term, with 80 % intervals.</p>",
        "<h2>Read with care</h2><ul>" + "".join(f"<li>{_e(line)}</li>" for line in caveats(snapshot)) + "</ul>",
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_e(snapshot.name)}</title><style>{_STYLE}</style>"
        + "\n".join(body)
        + "</html>\n"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:13px;display:block;overflow-x:auto}"
    "th,td{text-align:right;padding:.25rem .7rem;border-bottom:1px solid #e4e7eb;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}figure{margin:2rem 0}svg{max-width:100%;height:auto}"
    "figcaption,.muted{color:#616e7c;font-size:13px}h2{margin-top:2.5rem}"
)


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{_e(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _e(text: object) -> str:
    return html.escape(str(text))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float | None) -> str:
    return "not defined yet" if value is None else f"{value:.2f}"
