"""Saved views of a study in the MLflow runs page: which runs, columns and charts to look at.

MLflow keeps a saved view in an experiment tag `mlflow.sharedViewState.<key>`, a JSON envelope around the deflated state
of the page, and opens it by that key. `saved_views` describes the views as data, `experiment_tags` turns them into
tags. Keys and times are fixed, so installing twice changes nothing and a newer release replaces its own views only.
MLflow cannot edit a saved view: a user who changes one saves it under another key.

The tag `acsearch.kind` gives the kind of a run: `study` (one), `score` (one per candidate) or `finetune`. A chart draws
only the runs that carry all of its metrics, so one page can hold charts of finetunes and of all candidates.

Source: the types ExperimentPageUIState and RunsChartsCardConfig in the JavaScript of MLflow 3.17.2.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TAG_PREFIX = "mlflow.sharedViewState."
TAG_LIMIT = 20_000  # characters, MLflow's limit on the value of an experiment tag
FIRST_SAVED = 1_735_689_600_000  # ms, the start of 2025: older than any view of a user, which MLflow then lists first

SCORE = "agg/score"
ALIGNMENT = "score/A"
CORRESPONDENCE = "score/C"
PREDICTED = ("predict/score", "predict/sd", "predict/p_best", "predict/p_top3")
RECOMMENDED = ("reco/p_best", "reco/p_top3", "reco/expected_regret", "reco/incumbent")
LAW = ("law/r2", "law/r2_loo")
COST = ("cost/finetunes", "cost/seconds")
REPRESENTATION = "params.`representation`"

Json = dict[str, object]


@dataclass(frozen=True)
class Card:
    """One chart; MLflow writes its title.

    Attributes:
        kind: SCATTER, CONTOUR, PARALLEL, BAR or LINE.
        metrics: The metrics of the x, y and z axes, of the parallel axes, or of the lines.
    """

    kind: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A titled group of charts.

    Attributes:
        title: The title.
        cards: The charts.
        per_row: Number of charts in a row.
    """

    title: str
    cards: tuple[Card, ...]
    per_row: int = 3


@dataclass(frozen=True)
class SavedView:
    """A view of the runs page; without sections it is a table.

    Attributes:
        key: The key by which MLflow opens it.
        name: The name that MLflow lists.
        runs: Which runs are shown, in the search syntax of MLflow.
        columns: The columns of the table.
        created: Time of creation in ms since 1970; MLflow lists the newest first.
        order_by: The column that runs are sorted by.
        sections: The groups of charts.
        uncharted: Metrics of these runs that get no chart of their own.
    """

    key: str
    name: str
    runs: str
    columns: tuple[str, ...]
    created: int
    order_by: str = f"metrics.`{SCORE}`"
    sections: tuple[Section, ...] = ()
    uncharted: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """The name of the experiment tag."""
        return TAG_PREFIX + self.key

    def state(self) -> Json:
        """The state of the page, as the interface of MLflow would save it."""
        page: Json = {
            "searchFilter": self.runs,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "selectedColumns": list(self.columns),
            "columnOrder": list(self.columns),  # else sorted by name
            "runsHiddenMode": "SHOW_ALL",  # the default draws the first ten runs only
        }
        if not self.sections:
            return page
        cards = [
            _card(card, f"{self.key}-{s}-{c}", section=f"{self.key}-{s}")
            for s, section in enumerate(self.sections)
            for c, card in enumerate(section.cards)
        ]
        # MLflow adds a chart for every metric that is no card's `metricKey`, unless there is a deleted card for it.
        charted = {card.get("metricKey") for card in cards}
        for metric in dict.fromkeys(self.uncharted):
            if metric not in charted:
                cards.append(_card(Card("BAR", (metric,)), metric, section=f"{self.key}-0") | {"deleted": True})
        sections = [
            {"uuid": f"{self.key}-{s}", "name": section.title, "columns": section.per_row, "display": True}
            for s, section in enumerate(self.sections)
        ]
        # Without `isAccordionReordered` the sections are sorted by name.
        return page | {"compareRunCharts": cards, "compareRunSections": sections, "isAccordionReordered": True}

    def value(self) -> str:
        """The value of the experiment tag.

        Raises:
            ValueError: it is longer than MLflow accepts.
        """
        state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(self.state()).encode())).decode()
        value = json.dumps({"name": self.name, "createdAt": self.created, "updatedAt": self.created, "state": state})
        if len(value) > TAG_LIMIT:
            raise ValueError(f"saved view {self.name!r} takes {len(value)} characters, MLflow's limit is {TAG_LIMIT}")
        return value

    def fragment(self, experiment_id: str) -> str:
        """The end of the address that opens the view: `http://host:port/` + fragment."""
        query = f"viewStateShareKey={self.key}&compareRunsMode={'CHART' if self.sections else 'TABLE'}"
        return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&{query}"


def saved_views(
    benchmarks: Sequence[str], *, has_correspondence: bool, uncharted: Sequence[str] = ()
) -> tuple[SavedView, ...]:
    """Describe the views of an experiment, in the order in which to read them.

    Args:
        benchmarks: Names of the benchmarks, as logged in `bench/<name>`.
        has_correspondence: Whether the runs have the metric `score/C`.
        uncharted: Other metrics of any run, such as `train/loss`, for which MLflow would add charts.
    """
    scores = (ALIGNMENT, CORRESPONDENCE) if has_correspondence else (ALIGNMENT,)
    bench = tuple(f"bench/{name}" for name in benchmarks)
    quiet = (*scores, SCORE, *bench, *PREDICTED, *RECOMMENDED, *LAW, *COST, *uncharted)

    def law_cards(target: str) -> tuple[Card, ...]:
        contour = (Card("CONTOUR", (*scores, target)),) if has_correspondence else ()
        return tuple(Card("SCATTER", (score, target)) for score in scores) + contour

    progress = tuple(Card("LINE", lines) for lines in (RECOMMENDED[:2], RECOMMENDED[2:3], RECOMMENDED[3:], LAW))
    return (
        SavedView(
            key="acsearch-leaderboard",
            name="1 Leaderboard",
            runs="tags.`acsearch.kind` = 'finetune'",
            columns=(REPRESENTATION, *_columns(SCORE, *scores, *bench)),
            created=FIRST_SAVED + 4,
        ),
        SavedView(
            key="acsearch-law",
            name="2 Law (charts)",
            runs="tags.`acsearch.kind` != 'study'",
            columns=(REPRESENTATION, *_columns(*scores, SCORE, *PREDICTED)),
            created=FIRST_SAVED + 3,
            sections=(
                Section("Measured scores of the finetuned representations", law_cards(SCORE)),
                Section("Predicted scores of all representations", law_cards(PREDICTED[0])),
            ),
            uncharted=quiet,
        ),
        SavedView(
            key="acsearch-benchmarks",
            name="3 Benchmarks (charts)",
            runs="tags.`acsearch.kind` = 'finetune'",
            columns=(REPRESENTATION, *_columns(SCORE, *bench)),
            created=FIRST_SAVED + 2,
            sections=(
                Section("Every benchmark", (Card("PARALLEL", (*bench, SCORE)),), per_row=1),
                Section("Aggregate", (Card("BAR", (SCORE,)),), per_row=2),
            ),
            uncharted=quiet,
        ),
        SavedView(
            key="acsearch-progress",
            name="4 Progress (charts)",
            runs="tags.`acsearch.kind` = 'study'",
            columns=_columns(*RECOMMENDED, *LAW, *COST[:1]),
            created=FIRST_SAVED + 1,
            order_by="attributes.start_time",
            sections=(Section("Recommendation and fit of the law after each finetune", progress, per_row=2),),
            uncharted=quiet,
        ),
    )


def experiment_tags(views: Iterable[SavedView]) -> dict[str, str]:
    """The tags of an experiment: its views, the metric shown first, and the kind, which selects MLflow's layout."""
    return {view.tag: view.value() for view in views} | {
        "mlflow.experiment.primaryMetric.name": SCORE,
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        "mlflow.experimentKind": "custom_model_development",  # without it, MLflow asks the first visitor
    }


def _columns(*metrics: str) -> tuple[str, ...]:
    return tuple(f"metrics.`{metric}`" for metric in metrics)


def _card(card: Card, uuid: str, section: str) -> Json:
    """A chart as MLflow saves it."""
    common: Json = {"uuid": uuid, "type": card.kind, "metricSectionId": section}
    if card.kind in ("SCATTER", "CONTOUR"):
        axes = zip(("xaxis", "yaxis", "zaxis"), card.metrics, strict=False)
        return common | {axis: {"key": metric, "type": "METRIC"} for axis, metric in axes}
    if card.kind == "PARALLEL":
        return common | {"selectedMetrics": list(card.metrics), "selectedParams": []}
    if card.kind == "BAR":
        return common | {"metricKey": card.metrics[0]}
    lines: Json = {"metricKey": card.metrics[0], "selectedMetricKeys": list(card.metrics), "xAxisKey": "step"}
    return common | lines | {"lineSmoothness": 0}  # when absent, MLflow smooths the lines
