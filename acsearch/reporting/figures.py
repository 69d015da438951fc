"""Three figures of a study: the A-C plane with the law's contour, predicted against observed, P(best) over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure  # no pyplot: no global state, no display

from acsearch.law.features import TERMS, Array, Features
from acsearch.study.snapshot import Snapshot
from acsearch.tables.names import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _LIGHT, _ACCENT = "#1f2933", "#9aa5b1", "#d64545"
_LABELLED = 30  # in a larger pool, only finetuned candidates are labelled
_WIDEST = 32  # characters of a name
_LINES = 6  # candidates in the figure of P(best)


def figures(snapshot: Snapshot) -> dict[str, Figure]:
    """Draw all figures for the present state of a study. Returns them by name."""
    return {"plane": plane(snapshot), "predicted": predicted(snapshot), "p_best": p_best(snapshot)}


def plane(snapshot: Snapshot) -> Figure:
    """Draw the candidates in the plane of A and C (min-max scaled over the pool), with the contours of the law."""
    figure, axes = _axes("alignment A, over the pool from lowest to highest")
    alignment = snapshot.features.alignment @ snapshot.weights
    finetuned = [record.candidate for record in snapshot.finished if record.candidate is not None]
    correspondence = snapshot.features.correspondence
    if correspondence is None:
        _curve(snapshot, axes)
        heights = snapshot.display(snapshot.steps[-1].recommendation.mean)
        axes.set_ylabel(f"objective ({_unit(snapshot)})")
    else:
        _contour(snapshot, figure, axes)
        heights = correspondence
        axes.set_ylabel("correspondence C, over the pool from lowest to highest")
    axes.scatter(alignment, heights, s=36, facecolor="white", edgecolor=_INK, zorder=3, label="not finetuned")
    axes.scatter(alignment[finetuned], heights[finetuned], s=70, color=_ACCENT, zorder=4, label="finetuned, in order")
    label_all = len(alignment) <= _LABELLED
    shown = np.arange(len(alignment)) if label_all else np.array(finetuned, dtype=int)
    texts = {
        int(row): _named(snapshot.table.representations[row])
        + (f" ({finetuned.index(int(row)) + 1})" if int(row) in finetuned else "")
        for row in shown
    }
    _label(axes, alignment, heights, texts)
    axes.legend(loc="upper left", frameon=True, fontsize=8)
    return figure


def _contour(snapshot: Snapshot, figure: Figure, axes: Axes) -> None:
    line = np.linspace(-0.04, 1.04, 61)
    a, c = (grid.ravel() for grid in np.meshgrid(line, line))
    values = snapshot.display(_law_at(snapshot, a, c)).reshape(61, 61)
    filled = axes.contourf(line, line, values, levels=12, cmap="YlGnBu", alpha=0.85)
    axes.contour(line, line, values, levels=12, colors="white", linewidths=0.5)
    figure.colorbar(filled, ax=axes, label=f"expected by the law ({_unit(snapshot)})")


def _curve(snapshot: Snapshot, axes: Axes) -> None:
    line = np.linspace(0, 1, 101)
    axes.plot(line, snapshot.display(_law_at(snapshot, line, None)), color=_INK, linewidth=1, label="the law")


def _law_at(snapshot: Snapshot, a: Array, c: Array | None) -> Array:
    """(points,) the mean of the law for the objective, at these A (the same for all benchmarks) and C."""
    posterior = snapshot.steps[-1].posterior
    benchmarks = len(posterior.scale)
    design = Features(np.repeat(a[:, None], benchmarks, axis=1), c).design()
    weights = posterior.moments[0].reshape(-1, len(TERMS))
    law: Array = np.einsum("nbt,bt->nb", design, weights[0] + weights[1:]) * posterior.scale @ snapshot.weights
    return law


def predicted(snapshot: Snapshot) -> Figure:
    """Draw the observed objective of each finetune against its prediction just before the finetune."""
    figure, axes = _axes(f"observed ({_unit(snapshot)})")
    axes.set_ylabel("predicted just before, with 80 % interval")
    texts: dict[int, str] = {}
    observed: list[float] = []
    expected: list[float] = []
    for step, record in zip(snapshot.steps, snapshot.finished, strict=False):
        assert record.candidate is not None
        advice, row = step.recommendation, record.candidate
        x = snapshot.displayed_objective(record)
        low, mean, high = (float(snapshot.display(v[row])) for v in (advice.low, advice.mean, advice.high))
        if step.number == 0:
            continue  # before the first finetune the level of a benchmark is not known
        axes.errorbar(x, mean, yerr=[[mean - low], [high - mean]], fmt="o", color=_ACCENT, ecolor=_LIGHT)
        texts[len(observed)] = f"{_named(record.representation)} ({step.number + 1})"
        observed.append(x)
        expected.append(mean)
    if observed:
        middle = float(np.mean(observed))
        axes.axline((middle, middle), slope=1, color=_INK, linewidth=1, zorder=1, label="as predicted")
        axes.legend(loc="upper left", frameon=True, fontsize=8)
        axes.margins(x=0.15)
        _label(axes, np.array(observed), np.array(expected), texts)
    else:
        axes.text(0.5, 0.5, "after the second finetune", ha="center", transform=axes.transAxes, color=_LIGHT)
    return figure


def p_best(snapshot: Snapshot) -> Figure:
    """Draw P(best) after each finetune, for the candidates that have or had the highest."""
    figure, axes = _axes("finetunes")
    axes.set_ylabel("P(best)")
    chances = np.stack([step.recommendation.p_best for step in snapshot.steps])  # (steps, N)
    shown = np.argsort(-chances.max(axis=0) - chances[-1], kind="stable")[:_LINES]
    for row in shown.tolist():
        axes.plot(chances[:, row], marker="o", label=_named(snapshot.table.representations[row]))
    axes.set_xticks(range(len(chances)))
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="upper left", frameon=True, fontsize=8)
    return figure


def _named(name: str) -> str:
    """A name as a label: short, without formulas, and shown in legends, which leave out what begins with _."""
    return "\u200b" * name.startswith("_") + shortened(name, _WIDEST).replace("$", r"\$")


def _unit(snapshot: Snapshot) -> str:
    return shortened(snapshot.unit, 2 * _WIDEST).replace("$", r"\$")


def _axes(xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(axes: Axes, x: Array, y: Array, texts: dict[int, str]) -> None:
    """Write each text beside its point, moved up where it would overlap an earlier one."""
    width, height = np.ptp(x) or 1.0, np.ptp(y) or 1.0
    written: list[tuple[float, float]] = []
    for row in sorted(texts, key=lambda row: (y[row], x[row])):
        side = -1 if x[row] - x.min() > 0.75 * width else 1
        lifts = 0
        while any(
            abs(x[row] - a) < 0.2 * width and abs(y[row] + 0.025 * height * lifts - b) < 0.04 * height
            for a, b in written
        ):
            lifts += 1
        written.append((float(x[row]), float(y[row] + 0.025 * height * lifts)))
        axes.annotate(
            texts[row],
            (x[row], y[row]),
            xytext=(9 * side, 9 * lifts),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8,
            color=_INK,
            zorder=5,
        )
