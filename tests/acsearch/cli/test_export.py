"""`acsearch export`: of a study's finetune or of a folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import tiny
from support.fork_server import Forks

STUDY = tiny.STUDY.replace("pool@2", "mlp2x").replace("clip@32+siglip@32", "siglip@32:-1")


@pytest.fixture(scope="module")
def home(forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study with one finetune."""
    study = tmp_path_factory.mktemp("study")
    tiny.llm(study / "llm")
    tiny.encoders(study)
    (study / "study.yaml").write_text(STUDY)
    home = tmp_path_factory.mktemp("home")
    assert run(forked, home, "study", "start", str(study), "--budget", "1").returncode == 0
    return home


def run(forked: Forks, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | forked.environment | {"ACSEARCH_HOME": str(home)}
    return subprocess.run(forked.command(*arguments), env=environment, capture_output=True, text=True, cwd=home)


def finetune(forked: Forks, home: Path) -> dict[str, Any]:
    (found,) = json.loads(run(forked, home, "study", "show", "tiny", "--json").stdout)["finetunes"]
    return dict(found)


def test_a_finetune_of_a_study_with_its_scores(forked: Forks, home: Path) -> None:
    done = run(forked, home, "export", "tiny", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "wrote tiny-0-hf"
    card = (home / "tiny-0-hf" / "README.md").read_text()
    assert "trial 0 of the study tiny" in card
    for benchmark, points in finetune(forked, home)["scores"].items():
        assert f"| {benchmark} | {points:.2f}" in card
    assert json.loads((home / "tiny-0-hf" / "config.json").read_text())["model_type"] == "llava"


def test_a_folder(forked: Forks, home: Path) -> None:
    folder = finetune(forked, home)["checkpoint"]
    done = run(forked, home, "export", folder, "--to", "hf", "--out", "here", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert "Its scores are not known here." in (home / "here" / "README.md").read_text()
    (home / "here" / "README.md").write_text("mine")
    assert "acsearch did not write" in run(forked, home, "export", folder, "--out", "here").stderr
    assert run(forked, home, "export", folder, "--out", "here", "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["tiny", "7"], "study 'tiny', trial 7: no finetuned model: there is no such trial"),
        (["nothing", "0"], "no study 'nothing'"),
        (["nothing"], "nothing: no such folder; give that of a trained model, or a study and the number of a trial"),
        (["."], "not a committed checkpoint"),
    ],
)
def test_what_is_no_model(forked: Forks, home: Path, arguments: list[str], error: str) -> None:
    done = run(forked, home, "export", *arguments)
    assert done.returncode == 1
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
