"""Homes that an earlier version of acsearch has left are gone on with, or refused in one line that says what to do."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.fork_server import Forks

FORMAT_2 = ROOT / "tests/fixtures/format2"  # its README says how they were made
MADE_IN = {"/tmp/acsearch-home": "home", "/tmp/acsearch-study": "study"}
ADDRESSES = [
    ("studies.db", "study_user_attributes", "value_json"),
    ("mlflow.db", "experiments", "artifact_location"),
    ("mlflow.db", "runs", "artifact_uri"),
]
KILLED_STAGE, CHECKPOINT = "8614e2729d24f89649e7e1ba", "step-00000002"

Acsearch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def acsearch(forked: Forks) -> Acsearch:
    """Runs a command in the home of a folder."""

    def run(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = os.environ | forked.environment | {"ACSEARCH_HOME": str(folder / "home")}
        done = subprocess.run(forked.command(*arguments), env=environment, cwd=folder, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    return run


def unpack(folder: Path, **archives: str) -> Path:
    """Unpack archives by the name of the folder that each becomes. The databases learn where they are now."""
    for name, archive in archives.items():
        with tarfile.open(FORMAT_2 / f"{archive}.tar.xz") as packed:
            packed.extractall(folder / name, filter="data")
    for database, table, column in ADDRESSES:
        with closing(sqlite3.connect(folder / "home" / database)) as connection, connection:
            for before, now in MADE_IN.items():
                replaced = f"update {table} set {column} = replace({column}, ?, ?)"
                connection.execute(replaced, (before, str(folder / now)))
    return folder


def about(folder: Path) -> dict[str, Any]:
    """What the study was started with, as its storage holds it."""
    with closing(sqlite3.connect(folder / "home" / "studies.db")) as connection:
        query = "select value_json from study_user_attributes where key = 'acsearch'"
        found: dict[str, Any] = json.loads(connection.execute(query).fetchone()[0])
        return found


def shown(acsearch: Acsearch, folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(acsearch(folder, "study", "show", name, "--json").stdout)
    return found


def found_by(finetunes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finetunes without what is each study's own."""
    return [{key: value for key, value in one.items() if key not in ("seconds", "run")} for one in finetunes]


def test_a_study_with_two_of_four_finetunes(acsearch: Acsearch, tmp_path: Path) -> None:
    earlier, today = unpack(tmp_path / "earlier", home="law"), tmp_path / "today"
    assert about(earlier)["format"] == 2
    before = shown(acsearch, earlier, "law_v1")
    assert [one["state"] for one in before["finetunes"]][:2] == ["complete", "complete"]
    assert "complete" not in [one["state"] for one in before["finetunes"]][2:]
    assert "CLIP336" in acsearch(earlier, "study", "show", "law_v1").stdout

    acsearch(earlier, "study", "resume", "law_v1")
    today.mkdir()
    acsearch(today, "study", "start", "law_v1", "--budget", "4")
    after, undisturbed = (shown(acsearch, folder, "law_v1") for folder in (earlier, today))
    assert len(after["finetunes"]) == 4
    assert found_by(after["finetunes"]) == found_by(undisturbed["finetunes"])
    assert after["candidates"] == undisturbed["candidates"]
    assert after["recommendation"] == undisturbed["recommendation"]
    assert after["finetunes"][:2] == before["finetunes"][:2]
    assert about(earlier)["format"] == 2


def files(folder: Path) -> dict[str, bytes]:
    """All content of a folder but its locks, which say who holds them."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_study_killed_in_the_second_stage(acsearch: Acsearch, tmp_path: Path) -> None:
    earlier = unpack(tmp_path / "earlier", home="tiny", study="tiny-study")
    today = tmp_path / "today"
    with tarfile.open(FORMAT_2 / "tiny-study.tar.xz") as packed:
        packed.extractall(today / "study", filter="data")
    work = earlier / "home" / "work"
    stages = {path.name for path in (work / "stages").iterdir()}
    results = {stage: files(work / "stages" / stage / "result") for stage in stages - {KILLED_STAGE}}
    assert len(results) == 3
    assert all(results.values())
    steps = (work / "stages" / KILLED_STAGE / CHECKPOINT / "outbox.jsonl").read_text()
    assert [json.loads(line)["step"] for line in steps.splitlines()] == [1, 2]
    prepared = files(work / "data")
    before = shown(acsearch, earlier, "tiny")
    assert [one["state"] for one in before["finetunes"]] == ["interrupted"]

    acsearch(earlier, "study", "resume", "tiny")
    acsearch(today, "study", "start", str(today / "study"), "--budget", "2")
    for stage, content in results.items():
        assert files(work / "stages" / stage / "result") == content
    trained = (work / "stages" / KILLED_STAGE / "result" / "outbox.jsonl").read_text()
    assert trained.startswith(steps)  # with the times of then: these steps were not done again
    assert [json.loads(line)["step"] for line in trained.splitlines()] == [1, 2, 3, 4]
    assert files(work / "data") == prepared
    names = [{path.name for path in (folder / "home/work/stages").iterdir()} for folder in (earlier, today)]
    assert stages < names[0] == names[1]
    after, undisturbed = (shown(acsearch, folder, "tiny") for folder in (earlier, today))
    for what in ("representation", "scores", "standard_errors", "objective"):
        assert [one[what] for one in after["finetunes"]] == [one[what] for one in undisturbed["finetunes"]]
    assert [one["state"] for one in after["finetunes"]] == ["complete", "complete"]
    assert after["finetunes"][0]["run"] == before["finetunes"][0]["run"]
    assert about(earlier)["format"] == 2


@pytest.mark.parametrize("unknown", [1, 99])
def test_a_format_that_this_version_does_not_know(acsearch: Acsearch, tmp_path: Path, unknown: int) -> None:
    folder = unpack(tmp_path, home="law")
    with closing(sqlite3.connect(folder / "home" / "studies.db")) as connection, connection:
        content = json.dumps(about(folder) | {"format": unknown})
        connection.execute("update study_user_attributes set value_json = ? where key = 'acsearch'", (content,))
    databases = [folder / "home" / name for name in ("studies.db", "mlflow.db")]
    before = [path.read_bytes() for path in databases]
    for command in (["show", "law_v1"], ["resume", "law_v1"], ["start", "law_v1", "--resume"]):
        (line,) = acsearch(folder, "study", *command, code=1).stderr.splitlines()
        assert f"study 'law_v1' was written by another version of acsearch (format {unknown}; this one reads" in line
        assert line.endswith("go on with it there, or start it again under another --name")
    assert [path.read_bytes() for path in databases] == before
