"""The study that `make study` runs, as the README shows it: trained and evaluated for real. A few minutes."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from acsearch.config.study_file import load_study
from support import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
SHOWN = re.search(r"```text\n(Study micro:.*?)```", README, re.DOTALL)[1]  # type: ignore[index]
SCORED = r"scored (\d+) of 14  (\S+) +A (\S+) +C (\S+)"
FINETUNED = r"finetune (\d)  (\S+)  (\S+) +probably best: (\S+), P = (\S+)"
ROW = r"^(\S+@\S+) +(-?[\d.]+)  .* ([\d.]+) +([\d.]+) *(#\d)?$"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("micro")


def acsearch(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    hidden = ("ACSEARCH_HOME", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"COLUMNS": "140"}
    arguments = [str(Path(sys.executable).parent / "acsearch"), *command.split()]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    done = acsearch(folder, "study start --budget 4")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(folder: Path, printed: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(acsearch(folder, "study show micro --json").stdout)
    return shown


def test_it_prints_what_the_readme_shows(printed: str) -> None:
    """Up to rounding, which differs between processors and grows in training."""
    for pattern, lines in ((SCORED, 14), (FINETUNED, 4)):
        here, there = re.findall(pattern, printed), re.findall(pattern, SHOWN)
        assert len(here) == len(there) == lines
    here, there = ({name: (a, c) for _, name, a, c in re.findall(SCORED, text)} for text in (printed, SHOWN))
    assert set(here) == set(there)
    for name, (a, c) in there.items():
        assert float(here[name][0]) == pytest.approx(float(a), abs=0.05)
        assert float(here[name][1]) == pytest.approx(float(c), abs=0.2)
    ranked, expected = (dict(row[:2] for row in re.findall(ROW, text, re.MULTILINE)) for text in (printed, SHOWN))
    assert set(ranked) == set(expected)
    assert len(ranked) == 14
    assert next(iter(ranked)) == next(iter(expected))

    def words(text: str) -> list[str]:
        every_30_seconds = r"(?m)^  (starting|scoring|choosing|writing|waiting)\b.*\n"
        rest = re.sub(every_30_seconds, "", text)
        rest = re.sub(r"(?m)^ *(scored|finetune) \d.*\n|^\S+@.*\n|^  (report|MLflow) .*\n", "", rest)
        return re.sub(r"[\w.+@-]*\d[\w.+@-]*,?|candidates?|holds?", "", rest).split()

    assert words(printed) == words(SHOWN)


def test_every_number_can_be_read_by_machines(folder: Path, found: dict[str, Any]) -> None:
    assert len(found["candidates"]) == 14
    for candidate in found["candidates"]:
        assert candidate["low_80"] <= candidate["expected"] <= candidate["high_80"]
        assert candidate["A"] < 0 < candidate["C"] < 100
    assert len(found["finetunes"]) == 4
    client = MlflowClient(f"sqlite:///{folder / 'acsearch-runs' / 'mlflow.db'}")
    for finetune in found["finetunes"]:
        assert finetune["state"] == "complete"
        assert len(finetune["scores"]) == len(finetune["standard_errors"]) == 6
        assert all(0 < error < 5 for error in finetune["standard_errors"].values())
        assert finetune["seconds"] > 0
        assert (Path(finetune["checkpoint"]) / "weights.safetensors").is_file()
        metrics = client.get_run(finetune["run"]).data.metrics
        assert metrics.items() >= {f"bench/{name}": score for name, score in finetune["scores"].items()}.items()


def test_pretraining_shows_where_the_study_looks(found: dict[str, Any]) -> None:
    """What was taught with words or labels aligns better than what was not, and better than nothing at all."""
    aligned = {candidate["representation"]: candidate["A"] for candidate in found["candidates"]}
    taught = [aligned[f"{name}@64"] for name in ("clip-s8", "siglip-s8", "supervised-s8")]
    others = [aligned[f"{name}@64"] for name in ("dino-s8", "mae-s8", "denoiser-s8")]
    assert min(taught) > max(others) > min(others) > aligned["untrained-s8@64"]
    assert max(finetune["objective"] for finetune in found["finetunes"]) > 8  # percent of the way from floor to ceiling


def test_the_plan_expects_what_the_study_made(folder: Path, found: dict[str, Any]) -> None:
    (data,) = (folder / "acsearch-runs" / "work" / "data").glob("[!.]*/")
    training = load_study("micro").file.training
    assert training is not None
    for stage in (training.align, training.finetune):
        assert stage.expect is not None
        assert stage.expect.samples == pq.read_metadata(data / stage.data).num_rows
    plan = json.loads(acsearch(folder, "study plan micro --json").stdout)
    assert len(plan["candidates"]) == 14
    assert 0 < plan["scoring"] < 1  # hours
    assert "GPU-hours" not in acsearch(folder, "study plan micro").stdout or torch.cuda.is_available()


def test_a_second_start_says_what_there_is(folder: Path, found: dict[str, Any]) -> None:
    again = acsearch(folder, "study start --budget 4")
    assert again.returncode != 0
    assert again.stderr.startswith("error: study 'micro' exists, 4 of 4 finetunes done")
    assert "acsearch study resume micro" in again.stderr


def test_memory_stays_below_four_gigabytes(found: dict[str, Any]) -> None:
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4_000_000  # KiB, of the largest process so far
