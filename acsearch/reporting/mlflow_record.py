"""The MLflow record of a study: written from a `Snapshot`, any number of times, with the same result.

One parent run for the study; below it a run for each candidate's A and C with what the law predicts for it, and a run
for each finetune with its scores. Runs are found again by the tag `acsearch.key`; metrics carry the time at which they
became true, so that logging them twice adds nothing. A crash between any two lines is mended by the next `record`.

Names of representations never become metric keys, which MLflow restricts; they are run names and parameters.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy.exc

from acsearch import __version__
from acsearch.errors import StudyError
from acsearch.redaction import redact, without_secrets
from acsearch.reporting.figures import figures
from acsearch.reporting.mlflow_views import experiment_tags, saved_views
from acsearch.reporting.summary import law_summary, markdown
from acsearch.runners.base import Artifacts
from acsearch.storage.claims import Claims
from acsearch.study.snapshot import FinetuneRecord, Snapshot, Step
from trainers.errors import first_line
from trainers.training.metrics_log import MetricsLog

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported: a study reports to nobody else
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with its password, in the middle of progress

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric, Param, Run, RunTag

AWAY = (mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError)  # what a lost server looks like
_RECORDED = "acsearch.recorded"  # tag of the parent run: steps that are in the record, complete
_CHAMPION = "champion"
_BATCH = 900  # metrics of one request, of which MLflow takes 1000
_MOST_CANDIDATES = 200  # in a larger pool only the most promising candidates get a run of their own
_STATUS = {"running": "RUNNING", "complete": "FINISHED", "interrupted": "RUNNING"}


class Record:
    """The record of one study on one tracking server.

    Attributes:
        uri: of the server or its database.
    """

    def __init__(self, uri: str, artifacts: Path | None, claims: Claims) -> None:
        """
        Args:
            uri: of the server or its database.
            artifacts: where files go when this makes the experiment; None leaves it to the server.
            claims: of the study; one process records at a time.

        Raises:
            StudyError: MLflow cannot be used there.
        """
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.uri = uri
        self._artifacts = artifacts
        self._claims = claims
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except AWAY as error:
            raise StudyError(
                f"--tracking {redact(uri)}: MLflow cannot be used there: {without_secrets(first_line(error))}"
            ) from error

    def record(self, snapshot: Snapshot, artifacts: Artifacts, *, with_figures: bool = False) -> dict[str, str]:
        """Bring the record up to date, with the metrics that training left.

        Args:
            snapshot: the study as it is now.
            artifacts: of the study.
            with_figures: draw the figures too, which takes seconds.

        Returns:
            The ids of its runs: "study/NAME", "score/ROW" and "finetune/TRIAL".
        """
        with self._claims.exclusive("record"):
            experiment = _experiment(self._client, snapshot, self._artifacts)
            return _StudyRecord(self._client, experiment, snapshot, artifacts).write(with_figures=with_figures)


def _experiment(client: MlflowClient, snapshot: Snapshot, artifacts: Path | None) -> str:
    """The id of the experiment of the study's table, made where there is none, with its views."""
    name = f"acsearch/{snapshot.table.name}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        experiment = str(found.experiment_id)
    else:
        location = None if artifacts is None else artifacts.resolve().as_uri()
        experiment = str(client.create_experiment(name, artifact_location=location))
    views = saved_views(
        list(metric_names(snapshot.table.benchmarks).values()), has_correspondence=snapshot.table.has_correspondence
    )
    existing = {} if found is None else found.tags
    for key, value in experiment_tags(views).items():
        if existing.get(key) != value:
            client.set_experiment_tag(experiment, key, value)
    return experiment


class _StudyRecord:
    """The runs of one study in one experiment, as they are brought up to date once."""

    def __init__(self, client: MlflowClient, experiment: str, snapshot: Snapshot, artifacts: Artifacts) -> None:
        self._client, self._experiment = client, experiment
        self._snapshot, self._artifacts = snapshot, artifacts
        self._runs = self._known_runs()
        self._parent = self._run("study", snapshot.name, snapshot.name, snapshot.started)

    def write(self, *, with_figures: bool) -> dict[str, str]:
        """Write what is missing. Returns the ids of the runs."""
        snapshot, parent = self._snapshot, self._parent.info.run_id
        if _RECORDED not in self._parent.data.tags:
            self._describe()
        done = int(self._parent.data.tags.get(_RECORDED, -1))
        for step in snapshot.steps[done + 1 :]:
            self._record_step(step)
        for finetune in snapshot.finetunes:
            if finetune.representation:
                self._record_finetune(finetune)
        if snapshot.steps and snapshot.steps[-1].number > done:
            self._record_summary()
            self._client.set_tag(parent, _RECORDED, str(snapshot.steps[-1].number))
        if with_figures:
            for name, figure in figures(snapshot).items():
                self._client.log_figure(parent, figure, f"figures/{name}.png", save_kwargs={"dpi": 150})
        if snapshot.is_over and snapshot.best is not None:
            self._register(snapshot.best)
        now = snapshot.steps[-1].time if snapshot.steps else snapshot.started
        self._set_status(self._parent, "FINISHED" if snapshot.is_over else "RUNNING", now)
        prefix = len(self._key(""))
        return {key[prefix:]: str(run.info.run_id) for key, run in self._runs.items()}

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _key(self, which: str) -> str:
        """Tag that finds a run again. Another study of the same name on the same server started at another time."""
        return f"{self._snapshot.name}/{self._snapshot.started.isoformat()}/{which}"

    def _known_runs(self) -> dict[str, Run]:
        """The study's runs so far by their key. A server that dies with its answer is asked twice: the older stays."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=f"tags.`acsearch.study` = '{self._snapshot.name}'",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token,
            )
            for run in page:
                if runs.setdefault(run.data.tags["acsearch.key"], run) is not run:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return runs

    def _run(self, kind: str, which: str, run_name: str, started: datetime, parent: str | None = None) -> Run:
        """The run of this kind, made where there is none."""
        key = self._key(f"{kind}/{which}")
        if key not in self._runs:
            tags = {"acsearch.key": key, "acsearch.kind": kind, "acsearch.study": self._snapshot.name}
            tags["mlflow.source.name"] = f"acsearch {__version__}"
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            self._runs[key] = self._client.create_run(self._experiment, _milliseconds(started), tags, run_name)
        return self._runs[key]

    def _log(self, run: str, time: datetime, step: int, metrics: dict[str, float], **params: str) -> None:
        entries = [
            Metric(name, float(value), _milliseconds(time), step)
            for name, value in metrics.items()
            if np.isfinite(value)
        ]
        self._client.log_batch(run, entries, [Param(name, value) for name, value in params.items()])

    def _set_status(self, run: Run, status: str, time: datetime) -> None:
        if run.info.status != status and status == "RUNNING":
            self._client.update_run(run.info.run_id, status)
        elif run.info.status != status:
            self._client.set_terminated(run.info.run_id, status, _milliseconds(time))

    # -- what goes into them -------------------------------------------------------------------------------------------

    def _describe(self) -> None:
        snapshot, metadata = self._snapshot, self._snapshot.table.metadata
        self._log(
            self._parent.info.run_id,
            snapshot.started,
            0,
            {},
            objective=snapshot.objective,
            policy=snapshot.policy,
            prior=snapshot.prior.name,
            seed=str(snapshot.seed),
            candidates=str(len(snapshot.table.representations)),
            alignment=metadata.alignment,
            correspondence=metadata.correspondence,
            llm=metadata.llm,
        )

    def _record_step(self, step: Step) -> None:
        snapshot, parent, advice = self._snapshot, self._parent.info.run_id, step.recommendation
        metrics = {
            "reco/p_best": float(advice.p_best.max()),
            "reco/p_top3": float(advice.p_top3.max()),
            "reco/expected_regret": 100 * advice.expected_regret,
            "cost/finetunes": step.number,
            "cost/seconds": sum(record.seconds or 0.0 for record in snapshot.finished[: step.number]),
        }
        if step.number:
            metrics["reco/incumbent"] = 100 * float((step.posterior.scores @ snapshot.weights).max())
        law = law_summary(snapshot, step)
        metrics |= {f"law/{name}": law[name] for name in ("r2", "r2_loo") if law[name] is not None}
        self._log(parent, step.time, step.number, metrics)
        self._client.log_dict(parent, law, f"law/step-{step.number}.json")
        expected = 100 * advice.mean
        sd = 100 * step.posterior.objective(snapshot.weights)[1]
        for row in _with_own_run(snapshot):
            run = self._record_scores(row)
            predicted = {"predict/score": expected[row], "predict/sd": sd[row]}
            chances = {"predict/p_best": advice.p_best[row], "predict/p_top3": advice.p_top3[row]}
            self._log(run, step.time, step.number, predicted | chances)

    def _record_scores(self, row: int) -> str:
        """The run of a candidate's A and C, by its id."""
        snapshot, name = self._snapshot, self._snapshot.table.representations[row]
        run = self._run("score", str(row), name, snapshot.started, self._parent.info.run_id)
        if run.info.status == "RUNNING":
            self._log(run.info.run_id, snapshot.started, 0, _scores(snapshot, row), representation=name)
            self._replay(run.info.run_id, self._artifacts.logs(row, None))
            self._set_status(run, "FINISHED", snapshot.started)
        return str(run.info.run_id)

    def _record_finetune(self, record: FinetuneRecord) -> None:
        assert record.candidate is not None
        snapshot, name = self._snapshot, record.representation
        run_name = f"{name} (finetune {record.trial + 1})"  # the run of its scores has the plain name
        run = self._run("finetune", str(record.trial), run_name, record.started, self._parent.info.run_id)
        if run.info.status == "FINISHED":
            return
        self._log(run.info.run_id, record.started, 0, _scores(snapshot, record.candidate), representation=name)
        if record.objective is not None:
            metrics = {"agg/score": 100 * record.objective, "cost/seconds": record.seconds or 0.0}
            names = metric_names(snapshot.table.benchmarks)
            metrics |= {f"bench/{names[benchmark]}": points for benchmark, points in record.points.items()}
            errors = {f"error/{names[name]}": error for name, error in record.errors.items() if error is not None}
            self._log(run.info.run_id, record.finished or record.started, 0, metrics | errors)
            self._replay(run.info.run_id, self._artifacts.logs(record.candidate, record.trial))
        self._set_status(run, _STATUS.get(record.state, "FAILED"), record.finished or record.started)

    def _register(self, best: FinetuneRecord) -> None:
        """The best finetuned model into the registry, once: as the champion among the study's models."""
        if best.checkpoint is None or best.candidate is None:
            return
        run = self._runs[self._key(f"finetune/{best.trial}")].info.run_id
        name = f"acsearch-{self._snapshot.name}"
        versions = self._client.search_model_versions(f"name = '{name}'")
        version = next((one.version for one in versions if one.run_id == run), None)
        if version is None:
            folder = self._artifacts.model(best.candidate)
            if folder is None:  # imported without its checkpoints
                return
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name, description=self._snapshot.title)
            version = self._add_version(name, run, best, folder)
        self._client.set_registered_model_alias(name, _CHAMPION, str(version))

    def _add_version(self, name: str, run: str, best: FinetuneRecord, folder: Path) -> str:
        """A version of a registered model, with the files of a folder."""
        params = {"representation": best.representation, "checkpoint": str(best.checkpoint)}
        ours, plain = f"source_run_id = '{run}'", re.sub(r"\W", "-", best.representation)
        if not self._client.search_logged_models([self._experiment], ours):
            self._client.create_logged_model(self._experiment, plain, run, params=params, model_type="acsearch")
        model, *more = self._client.search_logged_models([self._experiment], ours)
        for one in more:  # a server that died with its answer was asked twice
            self._client.delete_logged_model(one.model_id)
        self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        version = self._client.create_model_version(
            name, model.artifact_location, run, description=best.representation, model_id=model.model_id
        )
        return str(version.version)

    def _replay(self, run: str, path: Path | None) -> None:
        """Send what training logged and the run does not have: whole steps, in order, so that none comes twice."""
        if path is None:
            return
        entries = MetricsLog(path).read()
        known = self._client.get_metric_history(run, "train/loss") if entries else []
        last = max((metric.step for metric in known), default=0)
        batch: list[Metric] = []
        for entry in entries:
            if entry.step > last:
                time = int(1000 * entry.time)
                batch += [Metric(f"train/{name}", value, time, entry.step) for name, value in entry.metrics.items()]
            if batch and (len(batch) > _BATCH or entry is entries[-1]):
                self._client.log_batch(run, batch)
                batch = []

    def _record_summary(self) -> None:
        run = self._parent.info.run_id
        self._client.log_text(run, _recommendation_csv(self._snapshot), "recommendation.csv")
        self._client.log_batch(run, tags=[RunTag("mlflow.note.content", markdown(self._snapshot))])


def _scores(snapshot: Snapshot, row: int) -> dict[str, float]:
    """A and C of a candidate as metrics: A for the objective, each benchmark's own A where they differ."""
    table = snapshot.table
    alignment = table.alignment[row]
    metrics = {"score/A": float(alignment @ snapshot.weights), "score/C": float(table.correspondence[row])}
    if np.ptp(alignment) > 0:
        names = metric_names(table.benchmarks).values()
        metrics |= {f"A/{name}": float(value) for name, value in zip(names, alignment, strict=True)}
    return metrics


def metric_names(benchmarks: Sequence[str]) -> dict[str, str]:
    """A name that MLflow takes as part of a metric's, for each benchmark; no two the same."""
    names: dict[str, str] = {}
    for benchmark in benchmarks:
        name = plain = re.sub(r"[^\w.: -]", "_", benchmark)[:200]
        while name in names.values():
            name = f"{plain}_{len(names)}"
        names[benchmark] = name
    return names


def _with_own_run(snapshot: Snapshot) -> list[int]:
    """Rows of the candidates that get a run: all, or in a large pool the first 200 by the prior and the finetuned."""
    rows = snapshot.steps[0].recommendation.order[:_MOST_CANDIDATES].tolist()
    finetuned = [record.candidate for record in snapshot.finished if record.candidate is not None]
    return sorted({*rows, *finetuned})


def _recommendation_csv(snapshot: Snapshot) -> str:
    advice = snapshot.steps[-1].recommendation
    finetuned = {record.candidate for record in snapshot.finished}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["representation", "p_best", "p_top3", "expected", "low_80", "high_80", "finetuned"])
    columns: list[Any] = [snapshot.display(values) for values in (advice.mean, advice.low, advice.high)]
    for row in advice.order.tolist():
        numbers = [f"{advice.p_best[row]:.4f}", f"{advice.p_top3[row]:.4f}", *(f"{c[row]:.3f}" for c in columns)]
        writer.writerow([snapshot.table.representations[row], *numbers, "yes" if row in finetuned else "no"])
    return text.getvalue()


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
