"""lmms-eval's own command line scores a trained checkpoint as we do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.evaluation import COUNT, run, samples, trained_result, write_questions
from trainers.errors import EvaluationError
from trainers.model import loading as build


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return trained_result(tmp_path)


def test_the_command_line_scores_the_same(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trained checkpoint by its registered name, as the same model scores in memory."""
    from evals.command import lmms_eval
    from evals.definition import export_task

    model = build.load_model(checkpoint)
    data = {"micro_count": write_questions(tmp_path / "count.parquet", ["no"] * 7)}
    run(model, tmp_path / "first", data)
    said = [record["answer"] for record in samples(tmp_path / "first")]
    assert all(said)
    write_questions(data["micro_count"], [*said[:4], "no", "no", "no"])
    inside = run(model, tmp_path / "inside", data).scores["micro_count"]
    assert inside.points == pytest.approx(400 / 7)
    task = export_task(COUNT[0], data["micro_count"], tmp_path / "tasks")

    def command(tasks: str, model_args: str = f"checkpoint={checkpoint}") -> None:
        where = ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
        what = ["--model", "acsearch", "--model_args", model_args, "--tasks", tasks, "--batch_size", "2"]
        lmms_eval(["eval", *what, *where, "--log_samples"])

    only_these(monkeypatch, tmp_path / "tasks")
    command(task)
    (results,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(results.read_text())["results"][task]
    assert 100 * scores["accuracy,none"] == pytest.approx(inside.points)
    assert 100 * scores["accuracy_stderr_clt,none"] == pytest.approx(inside.standard_error)
    with pytest.raises(EvaluationError, match="Tasks not found: nonesuch"):
        command("nonesuch")
    with pytest.raises(EvaluationError, match="no argument 'chekpoint'"):
        command(task, "chekpoint=/x")
    with pytest.raises(EvaluationError, match="/nowhere"):
        command(task, "checkpoint=/nowhere")
    assert "Traceback" not in capsys.readouterr().err


def only_these(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Without lmms-eval's own 1,711 tasks, which take seven seconds to list."""
    import lmms_eval.__main__ as program
    from lmms_eval.tasks import TaskManager

    def manager(*_: Any, model_name: str, **__: Any) -> TaskManager:
        return TaskManager("ERROR", include_path=str(folder), include_defaults=False, model_name=model_name)

    monkeypatch.setattr(program, "TaskManager", manager)


def test_the_model_is_registered_under_its_name() -> None:
    from evals.plugin import manifest

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"acsearch": "evals.plugin:manifest"}
    assert manifest().model_id == "acsearch"
