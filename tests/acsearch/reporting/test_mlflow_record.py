"""The MLflow record: complete, the same however often it is written, and mended after a crash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from acsearch.reporting import mlflow_record
from acsearch.reporting.mlflow_record import Record
from acsearch.reporting.mlflow_views import TAG_PREFIX
from acsearch.reporting.tracking_server import open_record
from acsearch.runners.recorded import NoArtifacts, RecordedRunner
from acsearch.storage.home import Home
from acsearch.study.start import start_study
from acsearch.study.study import Study

LOOKED_UP = RecordedRunner(load_table("law_v1"))


class Recorded:
    """A study of four finetunes and its record."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(f"sqlite:///{folder / 'studies.db'}", f"sqlite:///{folder / 'mlflow.db'}")
        config, storage = load_study("law_v1"), self.home.open_storage(create=True)
        self.study = start_study(
            storage,
            self.home.claims("s"),
            name="s",
            config=config,
            budget=4,
        )
        self.record: Record = open_record(self.home, "s")
        self.client = MlflowClient(tracking_uri=self.home.tracking_uri)

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("acsearch/law_v1")
        return list(self.client.search_runs([experiment.experiment_id], max_results=1000))

    def points(self) -> Counter[tuple[str, str, int]]:
        """How often each metric of each run has a value at each step."""
        counted: Counter[tuple[str, str, int]] = Counter()
        for run in self.runs():
            for key in run.data.metrics:
                for point in self.client.get_metric_history(run.info.run_id, key):
                    counted[run.data.tags["acsearch.key"], key, point.step] += 1
        return counted


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    recorded = Recorded(tmp_path_factory.mktemp("recorded"))
    recorded.record.record(recorded.study.snapshot, NoArtifacts())
    Study(recorded.study, LOOKED_UP, lambda event: None).run()

    # a crash in the middle of writing: after the second step, before its mark
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_record._StudyRecord, "_write_run", _crash)
        with pytest.raises(KeyboardInterrupt):
            recorded.record.record(recorded.study.snapshot, NoArtifacts())
    recorded.record.record(recorded.study.snapshot, NoArtifacts(), with_figures=True)
    return recorded


def _crash(*args: object) -> None:
    raise KeyboardInterrupt


def test_one_run_for_the_study_each_candidate_and_each_finetune(recorded: Recorded) -> None:
    runs = recorded.runs()
    assert Counter(run.data.tags["acsearch.kind"] for run in runs) == {"study": 1, "score": 13, "finetune": 4}
    parent = next(run for run in runs if run.data.tags["acsearch.kind"] == "study")
    for run in runs:
        assert run.info.status == "FINISHED"
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            finetune = run.data.tags["acsearch.kind"] == "finetune"
            assert run.info.run_name.startswith(run.data.params["representation"])
            assert ("(finetune" in run.info.run_name) == finetune


def test_every_metric_is_there_once(recorded: Recorded) -> None:
    points = recorded.points()
    assert set(points.values()) == {1}
    steps = {step for (_, key, step) in points if key == "predict/p_best"}
    assert steps == {0, 1, 2, 3, 4}


def test_writing_again_changes_nothing(recorded: Recorded) -> None:
    before, runs = recorded.points(), len(recorded.runs())
    another = open_record(recorded.home, "s")
    another.record(recorded.study.snapshot, NoArtifacts(), with_figures=True)
    assert recorded.points() == before
    assert len(recorded.runs()) == runs


def test_finetunes_carry_scores_and_what_they_cost(recorded: Recorded) -> None:
    table = recorded.study.snapshot().table
    for run in recorded.runs():
        if run.data.tags["acsearch.kind"] != "finetune":
            continue
        row = table.representations.index(run.data.params["representation"])
        for name, score in zip(table.benchmarks, table.scores[row], strict=True):
            assert run.data.metrics[f"bench/{name}"] == score
        assert run.data.metrics["score/C"] == table.correspondence[row]
        assert run.data.metrics["score/A"] == pytest.approx(table.alignment[row].mean())
        assert run.data.metrics["agg/score"] == pytest.approx(100 * table.scaled[row].mean())
        assert run.data.metrics["cost/seconds"] >= 0


def test_files_and_views(recorded: Recorded) -> None:
    parent = next(run for run in recorded.runs() if run.data.tags["acsearch.kind"] == "study")
    run = parent.info.run_id
    top = {file.path for file in recorded.client.list_artifacts(run)}
    assert top == {"figures", "law", "recommendation.csv"}
    assert {f.path for f in recorded.client.list_artifacts(run, "law")} == {f"law/step-{n}.json" for n in range(5)}
    assert all(file.file_size > 10_000 for file in recorded.client.list_artifacts(run, "figures"))
    assert "Best finetuned: CLIP336" in parent.data.tags["mlflow.note.content"]
    tags = recorded.client.get_experiment_by_name("acsearch/law_v1").tags
    assert sum(key.startswith(TAG_PREFIX) for key in tags) == 4


def test_a_wiped_record_is_written_anew(recorded: Recorded, tmp_path: Path) -> None:
    home = Home(recorded.home.storage, f"sqlite:///{tmp_path / 'mlflow.db'}")
    open_record(home, "s").record(recorded.study.snapshot, NoArtifacts())
    client = MlflowClient(tracking_uri=home.tracking_uri)
    experiment = client.get_experiment_by_name("acsearch/law_v1").experiment_id
    again = {run.data.tags["acsearch.key"]: run.data.metrics for run in client.search_runs([experiment])}
    assert again == {run.data.tags["acsearch.key"]: run.data.metrics for run in recorded.runs()}


class Picky(NoArtifacts):
    """As if training had left rows out, of stage 1 and of the finetunes."""

    def dropped(self, candidate: int, trial: int | None) -> list[str]:
        return ["sample-3", "sample-9"] if trial is not None else []


def test_rows_that_training_left_out_are_named_in_a_file(recorded: Recorded, tmp_path: Path) -> None:
    home = Home(recorded.home.storage, f"sqlite:///{tmp_path / 'mlflow.db'}")
    open_record(home, "s").record(recorded.study.snapshot, Picky())
    client = MlflowClient(tracking_uri=home.tracking_uri)
    experiment = client.get_experiment_by_name("acsearch/law_v1")
    named = set()
    for run in client.search_runs([experiment.experiment_id]):
        if "dropped_rows.txt" in {file.path for file in client.list_artifacts(run.info.run_id)}:
            named.add(run.data.tags["acsearch.kind"])
            text = Path(client.download_artifacts(run.info.run_id, "dropped_rows.txt", str(tmp_path))).read_text()
            assert text == "sample-3\nsample-9\n"
    assert named == {"finetune"}
