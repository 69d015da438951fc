"""The commands, as processes; all but the help start as forks. test_readme.py starts them as a user does."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fork_server import Forks

PYTHON = sys.executable


@pytest.fixture(scope="module", autouse=True)
def at_once(forked: Forks) -> Iterator[None]:
    with forked.instead():
        yield


def run(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("ACSEARCH_HOME", "MLFLOW_TRACKING_URI")
    }
    command = [sys.executable, "-m", "acsearch", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def read(*arguments: str, cwd: Path) -> Any:
    return json.loads(run(*arguments, "--json", cwd=cwd).stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study was killed in its middle, resumed, and finished."""
    folder = tmp_path_factory.mktemp("user")
    command = [sys.executable, "-m", "acsearch", "study", "start", "law_v1", "--budget", "4"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "finetune 2" in line:
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = read("study", "status", "law_v1", cwd=folder)
    assert 2 <= state["finished"] < 4
    run("study", "resume", "law_v1", cwd=folder)
    run("study", "start", "law_v1", "--name", "undisturbed", cwd=folder)
    return folder


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    def seconds() -> float:
        """Of the processor. Whatever else runs on the machine can only add to it, so the least counts."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([PYTHON, "-m", "acsearch", "--help"], cwd=tmp_path, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(6)) <= 0.4
    code = (
        "import sys, acsearch.cli.main; print([m for m in ('numpy', 'torch', 'mlflow', 'optuna') if m in sys.modules])"
    )
    loaded = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_killed_and_resumed_is_the_same_as_undisturbed(folder: Path) -> None:
    killed, undisturbed = (read("study", "show", name, cwd=folder) for name in ("law_v1", "undisturbed"))
    assert len(killed["finetunes"]) == 4
    for key in ("candidates", "recommendation", "objective", "unit"):
        assert killed[key] == undisturbed[key]
    for one, other in zip(killed["finetunes"], undisturbed["finetunes"], strict=True):
        own = {"seconds", "run"}
        assert {k: v for k, v in one.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
        assert one["run"] != other["run"]


def test_the_record_of_the_killed_study_is_whole(folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'acsearch-runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("acsearch/law_v1").experiment_id
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for found in client.search_runs([experiment], max_results=1000):
        if found.data.tags["acsearch.kind"] != "score":
            kept = {key: value for key, value in found.data.metrics.items() if key != "cost/seconds"}
            metrics.setdefault(found.data.tags["acsearch.study"], {})[str(found.info.run_name)] = kept
        for key in found.data.metrics:
            history = client.get_metric_history(found.info.run_id, key)
            assert len({point.step for point in history}) == len(history)
    killed, undisturbed = metrics["law_v1"], metrics["undisturbed"]
    assert killed.pop("law_v1") == undisturbed.pop("undisturbed")
    assert killed == undisturbed


def test_start_twice_offers_to_resume(folder: Path) -> None:
    done = run("study", "start", "law_v1", cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("error: study 'law_v1' exists, 4 of 4 finetunes done")
    assert "acsearch study resume law_v1" in done.stderr
    run("study", "start", "law_v1", "--resume", cwd=folder)


def test_list_status_and_report(folder: Path) -> None:
    assert {study["name"] for study in read("study", "list", cwd=folder)} == {"law_v1", "undisturbed"}
    assert "4 of 4" in run("study", "status", "law_v1", cwd=folder).stdout
    assert "P(top 3)" in run("study", "show", "law_v1", cwd=folder).stdout
    run("study", "report", "law_v1", cwd=folder)
    report = (folder / "acsearch-runs" / "law_v1.html").read_text()
    assert report.count("<svg") == 3
    assert "CLIP336+DINOv2" in report
    assert not re.search(r"(src|href)=['\"]?http", report)  # it loads nothing from elsewhere


def test_law_fit(tmp_path: Path) -> None:
    fit = read("law", "fit", "law_v1", "--surrogate", "published", cwd=tmp_path)
    assert (fit["table"], fit["surrogate"]) == ("law_v1", "published")
    assert fit["benchmarks"]["mmbench_en"]["r2"] == pytest.approx(0.963397, abs=1e-6)
    for row in [*fit["benchmarks"].values(), fit["mean"]]:
        assert {"r2", "r2_adjusted", "r2_loo", "r2_noise", "coverage_80"} <= set(row)
    bayes = read("law", "fit", "law_v3", cwd=tmp_path)
    assert bayes["surrogate"] == "bayes"
    assert 0.75 <= bayes["mean"]["coverage_80"] <= 0.85


def test_too_few_candidates_for_the_weights_is_null_and_not_nan(tmp_path: Path) -> None:
    lines = ["representation,benchmark,score,alignment,correspondence"]
    lines += [f"r{i},b,{10 + i * i},{i / 7},{(i * 3) % 5}" for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    fit = read("law", "fit", "t.csv", "--surrogate", "published", cwd=tmp_path)
    assert fit["benchmarks"]["b"]["r2_adjusted"] is None
    assert fit["benchmarks"]["b"]["coverage_80"] is None
    assert "No metadata beside this table" in run("law", "fit", "t.csv", cwd=tmp_path).stdout


def test_replay(tmp_path: Path) -> None:
    arguments = ("replay", "law_v1", "--budget", "4", "--subset", "10", "--repeats", "3")
    one = read(*arguments, "--policy", "default", cwd=tmp_path)
    assert (one["table"], one["policy"], one["budget"], one["subset"]) == ("law_v1", "ucb", 4, 10)
    assert set(one["benchmarks"]["mme"]) >= {"recall@1", "recall@3", "regret"}
    assert set(one["mean"]) >= {"recall@1", "recall@3", "regret", "regret_sd"}
    every = read(*arguments, "--policy", "all", cwd=tmp_path)
    assert [row["policy"] for row in every] == ["ucb", "ei", "kg", "published", "random", "top-a", "a+c", "oracle"]
    assert every[0] == one
    flattering = run(*arguments, "--policy", "published", "--statistic", "first-hit", cwd=tmp_path).stdout
    assert "This count flatters" in flattering


def test_learning_a_prior_and_using_it(tmp_path: Path) -> None:
    run("law", "prior", "law_v3", "--out", "mine.yaml", cwd=tmp_path)
    assert "A_ll" in (tmp_path / "mine.yaml").read_text()
    read("law", "fit", "law_v3", "--prior", "mine.yaml", cwd=tmp_path)
    refused = run("law", "fit", "law_v1", "--prior", "mine.yaml", cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert "never share a fit" in refused.stderr
