"""The MLflow record of a study: made equal to what a `Snapshot` says, whatever it said before.

The content of the runs comes from `acsearch.reporting.run_contents`. Runs are found again by the tag `acsearch.key`;
what a run lacks is added, and a run that says what is not true (the storage was restored from an older copy, somebody
else wrote there) is deleted and made again, since MLflow can neither change a parameter nor take a metric back. MLflow
keeps deleted runs until its garbage collection. So recording twice changes nothing, and a crash between any two lines
is mended by the next `record`.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy.exc

from acsearch import __version__
from acsearch.errors import StudyError
from acsearch.redaction import redact, without_secrets
from acsearch.reporting.figures import figures
from acsearch.reporting.mlflow_views import experiment_tags, saved_views
from acsearch.reporting.run_contents import TRAINING, MetricPoints, RecordContents, RunContent, metric_names
from acsearch.reporting.summary import as_markdown, recommendation_csv
from acsearch.runners.base import Artifacts
from acsearch.storage.claims import Claims
from acsearch.storage.sqlite import problem_of
from acsearch.study.snapshot import FinetuneRecord, Snapshot
from trainers.errors import first_line

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported: a study reports to nobody else
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with its password, in the middle of progress

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

AWAY = (mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError)  # what a lost server looks like
_CHAMPION = "champion"
_BATCH = 900  # metrics of one request, of which MLflow takes 1000
_LONGEST_PARAM, _LONGEST_TAG = 6000, 8000  # characters, where MLflow cuts
_OURS = ("agg/", "cost/", "bench/", "error/", "score/", "A/", "predict/", "reco/", "law/", TRAINING)  # metrics
_DRAWN = ("predict/p_best", "predict/p_top3", "reco/p_best", "reco/p_top3")  # from draws, which other rounding may move

Recorded = dict[str, dict[int, list[float]]]  # values by metric and step


@dataclass
class Changes:
    """What was done to a record.

    Attributes:
        removed: runs that the study does not have.
        replaced: runs that said what is not true, with the reason.
        added: names of the runs that are new, also in the place of others.
        completed: names of the runs and files that something was written to, the new ones among them.
    """

    removed: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    added: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)


class Record:
    """The record of one study on one tracking server.

    Attributes:
        uri: of the server or its database.
        changes: what the last `record` did.
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
        self.changes = Changes()
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except AWAY as error:
            problem = problem_of(error) or f"MLflow cannot be used there: {without_secrets(first_line(error))}"
            raise StudyError(f"--tracking {redact(uri)}: {problem}") from error

    def record(
        self, take: Callable[[], Snapshot], artifacts: Artifacts, *, with_figures: bool = False, thorough: bool = False
    ) -> dict[str, str]:
        """Make the record equal to the study.

        Args:
            take: takes a snapshot of the study. It is called while nobody else records: with an older one, what others
                have recorded since would seem untrue.
            artifacts: of the study.
            with_figures: draw the figures too, which takes seconds.
            thorough: compare every value and file that the record has, and not only the last value of each metric.

        Returns:
            The ids of its runs: "study/NAME", "score/ROW" and "finetune/TRIAL".
        """
        with self._claims.exclusive("record"):
            snapshot = take()
            experiment = _experiment(self._client, snapshot, self._artifacts)
            study = _StudyRecord(self._client, experiment, snapshot, artifacts, thorough)
            runs = study.write(with_figures=with_figures and snapshot.is_scored)
            self.changes = study.changes
            return runs


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
    """The runs of one study in one experiment, as they are made equal to its snapshot once."""

    def __init__(
        self, client: MlflowClient, experiment: str, snapshot: Snapshot, artifacts: Artifacts, thorough: bool
    ) -> None:
        self._client, self._experiment = client, experiment
        self._snapshot, self._artifacts, self._thorough = snapshot, artifacts, thorough
        self._contents = RecordContents(snapshot, artifacts)
        self.changes = Changes()
        self._runs = self._known_runs()

    def write(self, *, with_figures: bool) -> dict[str, str]:
        """Make the runs equal to the snapshot. Returns their ids."""
        snapshot, content = self._snapshot, self._contents.study()
        parent, kept = self._write_study(content), {content.key}
        for one in self._contents.below():
            kept.add(one.key)
            self._write_run(replace(one, tags={"mlflow.parentRunId": parent.info.run_id}))
        for key in sorted(self._runs.keys() - kept):
            self.changes.removed.append(self._remove(key, "the study has no such run"))
        if with_figures:
            for name, figure in figures(snapshot).items():
                drawn = io.BytesIO()
                figure.savefig(drawn, format="png", dpi=150)
                self._write_file(parent, f"figures/{name}.png", drawn.getvalue())
        if snapshot.is_over and snapshot.best is not None:
            self._register(snapshot.best)
        return {key: str(run.info.run_id) for key, run in self._runs.items()}

    # -- runs ----------------------------------------------------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        """Of the tags that find runs again. Another study of the same name on the same server has another start."""
        return f"{self._snapshot.name}/{self._snapshot.started_text}/"

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
                key = run.data.tags.get("acsearch.key", "")
                known = key.startswith(self._prefix) and runs.setdefault(key.removeprefix(self._prefix), run)
                if known and known is not run:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return runs

    def _write_study(self, content: RunContent) -> Run:
        """The parent run. Of each step the file comes before the metrics, and the note after all else."""
        run = self._true_run(content)
        missing = self._missing(content.points, self._recorded(run, training=False))
        written = {metric.step for metric in missing}
        for step in (one.step for one in content.points if self._thorough or one.step in written):
            law = json.dumps(self._contents.law(step), indent=2)
            self._write_file(run, f"law/step-{step}.json", law.encode())
        self._log(run, content, missing)
        if content.points and (missing or self._thorough or self._other_tags(run, content)):
            self._write_file(run, "recommendation.csv", recommendation_csv(self._snapshot).encode())
        self._finish(run, content)
        return run

    def _write_run(self, content: RunContent) -> None:
        run = self._true_run(content)
        missing = self._missing(content.points, self._recorded(run, training=False))
        if self._thorough or run.info.status != content.status:
            missing += self._missing(content.training() or (), self._recorded(run, training=True))
            if dropped := content.dropped():
                self._write_file(run, "dropped_rows.txt", "".join(f"{name}\n" for name in dropped).encode())
        self._log(run, content, missing)
        self._finish(run, content)

    def _true_run(self, content: RunContent) -> Run:
        """The run of this content: the one that is there where all that it says is true, else a new one."""
        run = self._runs.get(content.key)
        reason = None if run is None else self._untrue(run, content)
        if reason is not None:
            self.changes.replaced.append(f"{self._remove(content.key, reason)}: {reason}")
        if run is None or reason is not None:
            tags = {"acsearch.key": self._prefix + content.key, "acsearch.kind": content.kind}
            tags |= {"acsearch.study": self._snapshot.name, "mlflow.source.name": f"acsearch {__version__}"}
            run = self._client.create_run(self._experiment, _milliseconds(content.started), tags, content.name)
            self._runs[content.key] = run
            self.changes.added.add(content.name)
        return run

    def _remove(self, key: str, reason: str) -> str:
        """Delete a run that is not true; MLflow can restore it. Its model is the champion no more. Returns its name."""
        run = self._runs.pop(key)
        for version in self._client.search_model_versions(f"run_id = '{run.info.run_id}'"):
            self._client.set_model_version_tag(version.name, version.version, "acsearch.removed", reason)
            if _CHAMPION in self._client.get_model_version(version.name, version.version).aliases:
                self._client.delete_registered_model_alias(version.name, _CHAMPION)
        self._client.delete_run(run.info.run_id)
        return str(run.info.run_name)

    # -- what they say -------------------------------------------------------------------------------------------------

    def _recorded(self, run: Run, *, training: bool) -> Recorded:
        """The last value of each of our metrics, or all its values; of those that training logged, or of the others."""
        recorded: Recorded = {}
        for last in run.data._metric_objs:  # `metrics` has the same without steps
            if last.key.startswith(_OURS) and last.key.startswith(TRAINING) == training:
                points = {(last.step, last.value)}
                if self._thorough:
                    points |= {(m.step, m.value) for m in self._client.get_metric_history(run.info.run_id, last.key)}
                for step, value in points:
                    recorded.setdefault(last.key, {}).setdefault(step, []).append(value)
        return recorded

    def _untrue(self, run: Run, content: RunContent) -> str | None:
        """What a run says that is not true; None where all that it says is."""
        for name, value in content.params.items():
            if run.data.params.get(name, value[:_LONGEST_PARAM]) != value[:_LONGEST_PARAM]:
                return f"its parameter {name} was not {value}"
        reason = _difference(self._recorded(run, training=False), content.points)
        training = content.training() if self._thorough and reason is None else None
        return reason if training is None else _difference(self._recorded(run, training=True), training)

    def _missing(self, points: Sequence[MetricPoints], recorded: Recorded) -> list[Metric]:
        """The metrics that a run lacks. They are written in the order of steps, so the last one may not be whole."""
        last = max((step for steps in recorded.values() for step in steps), default=-1)
        return [
            Metric(name, value, _milliseconds(one.time), one.step)
            for one in points
            if self._thorough or one.step >= last
            for name, value in _finite(one).items()
            if one.step not in recorded.get(name, ())
        ]

    def _log(self, run: Run, content: RunContent, metrics: Sequence[Metric]) -> None:
        params = [Param(name, value) for name, value in content.params.items() if name not in run.data.params]
        if params:
            self._client.log_batch(run.info.run_id, params=params)
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run.info.run_id, metrics[start : start + _BATCH])
        if params or metrics:
            self.changes.completed.add(content.name)

    def _other_tags(self, run: Run, content: RunContent) -> dict[str, str]:
        """Tags that the run should have and has not."""
        tags = {"mlflow.runName": content.name, "acsearch.kind": content.kind, **content.tags}
        tags = {key: value[:_LONGEST_TAG] for key, value in tags.items()}
        return {key: value for key, value in tags.items() if run.data.tags.get(key) != value}

    def _finish(self, run: Run, content: RunContent) -> None:
        """The last of a run: its tags, and whether it is over."""
        tags, status = self._other_tags(run, content), content.status
        if tags:
            self._client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if run.info.status != status and status == "RUNNING":
            self._client.update_run(run.info.run_id, status)
        elif run.info.status != status:
            self._client.set_terminated(run.info.run_id, status, _milliseconds(content.ended))
        if tags or run.info.status != status:
            self.changes.completed.add(content.name)

    def _write_file(self, run: Run, name: str, content: bytes) -> None:
        """A file among the artifacts of a run, unless it is compared and found to be there."""
        # not by the client, which remembers the places of runs by their id, which copies of a record share
        files: Any = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._client.tracking_uri)
        path = PurePosixPath(name)
        with tempfile.TemporaryDirectory() as folder:
            if self._thorough:
                with suppress(*AWAY):  # it is not there
                    if Path(files.download_artifacts(name, folder)).read_bytes() == content:
                        return
            (Path(folder) / path.name).write_bytes(content)
            files.log_artifact(str(Path(folder) / path.name), None if len(path.parts) == 1 else str(path.parent))
            self.changes.completed.add(name)

    # -- the model -----------------------------------------------------------------------------------------------------

    def _register(self, best: FinetuneRecord) -> None:
        """The best finetuned model into the registry, once: as the champion among the study's models."""
        if best.checkpoint is None or best.candidate is None:
            return
        run = self._runs[f"finetune/{best.trial}"].info.run_id
        name = f"acsearch-{self._snapshot.name}"
        versions = self._client.search_model_versions(f"name = '{name}'")
        version = next((one.version for one in versions if one.run_id == run), None)
        if version is None:
            folder = self._artifacts.model(best.candidate)
            if folder is None:  # imported without its checkpoints
                return
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name, description=as_markdown(self._snapshot.title))
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
            name, model.artifact_location, run, description=as_markdown(best.representation), model_id=model.model_id
        )
        return str(version.version)


def _difference(recorded: Recorded, points: Sequence[MetricPoints]) -> str | None:
    """Where recorded metrics say something else than these points, in words; None where they say a part of them."""
    asked = {step for steps in recorded.values() for step in steps}
    true = {(key, one.step): value for one in points if one.step in asked for key, value in _finite(one).items()}
    for key, steps in recorded.items():
        for step, values in steps.items():
            if (key, step) not in true:
                return f"it had {key} at step {step}, which the study has not"
            tolerance = 0.01 if key in _DRAWN else 1e-6
            if len(values) > 1 or not math.isclose(values[0], true[key, step], rel_tol=1e-6, abs_tol=tolerance):
                return f"its {key} at step {step} was not {true[key, step]:.6g}"
    return None


def _finite(points: MetricPoints) -> dict[str, float]:
    return {key: float(value) for key, value in points.values().items() if math.isfinite(value)}


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
