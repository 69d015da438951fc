"""Files that commands write where the user says: whole or not at all, and only over what acsearch made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from acsearch.cli.main import app
from acsearch.reporting import report
from acsearch.runners.recorded import RecordedRunner
from acsearch.study.study import Study
from support.homes import TempHome
from trainers.errors import AcsearchError

MINE = "notes of a year\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    """The error of a command that is refused."""
    error = run(*arguments).exception
    assert isinstance(error, AcsearchError), error
    return error.line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> TempHome:
    home = TempHome(tmp_path_factory.mktemp("home"))
    study = home.start(budget=1)
    Study(study, RecordedRunner(study.table), lambda event: None).run()
    return home


@pytest.fixture
def write_report(home: TempHome, alone: None) -> tuple[str, ...]:
    return ("study", "report", "s", "--storage", home.storage_url, "--out")


def test_a_report_takes_the_place_of_a_report_alone(write_report: tuple[str, ...]) -> None:
    mine, ours = Path("mine.txt"), Path("r.html")
    mine.write_text(MINE)
    assert "mine.txt: exists already" in (line := refused(*write_report, "mine.txt"))
    assert "--force" in line
    assert mine.read_text() == MINE
    assert run(*write_report, "r.html").exit_code == 0
    text = ours.read_text()
    assert run(*write_report, "r.html").exit_code == 0
    ours.write_text(text.replace(report.GENERATOR, ""))  # as earlier versions wrote them
    assert run(*write_report, "r.html").exit_code == 0
    assert report.GENERATOR in ours.read_text()
    assert run(*write_report, "mine.txt", "--force").exit_code == 0
    assert mine.read_text().startswith("<!doctype html>")


def test_what_is_no_file_is_never_replaced(write_report: tuple[str, ...]) -> None:
    os.mkfifo("pipe")
    Path("target").write_text(MINE)
    Path("link").symlink_to("target")
    Path("folder").mkdir()
    for name in ("pipe", "link", "folder"):
        for force in ((), ("--force",)):
            assert f"{name}: exists and is not a regular file" in refused(*write_report, name, *force)
    assert Path("target").read_text() == MINE
    assert Path("link").is_symlink()


def test_a_report_that_fails_leaves_nothing(write_report: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", _full)
    assert "No space left" in refused(*write_report, "r.html")
    assert not list(Path().iterdir())


def _full(path: Path, *args: object, **options: object) -> None:
    path.touch()
    raise OSError(28, "No space left on device", str(path))


def test_a_prior_is_not_overwritten(alone: None) -> None:
    Path("p.yaml").write_text(MINE)
    assert "--force" in refused("law", "prior", "law_v3", "--out", "p.yaml")
    assert Path("p.yaml").read_text() == MINE
    assert run("law", "prior", "law_v3", "--out", "p.yaml", "--force").exit_code == 0
    assert "A_ll" in Path("p.yaml").read_text()


@pytest.fixture
def manifest(alone: None) -> Path:
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a"}]
    samples = [{"id": str(number), "image": f"{number}.png", "conversations": turns} for number in range(10)]
    Path("m.json").write_text(json.dumps(samples))
    return Path("m.json")


@pytest.mark.parametrize("there", ["m-train.json", "m-heldout.json"])
def test_data_split_writes_both_files_or_none(manifest: Path, there: str) -> None:
    Path(there).write_text(MINE)
    line = refused("data", "split", "m.json", "--heldout", "3")
    assert f"{there}: exists already" in line
    assert "--force" in line
    assert sorted(path.name for path in Path().iterdir()) == sorted(["m.json", there])
    assert Path(there).read_text() == MINE
    assert run("data", "split", "m.json", "--heldout", "3", "--force").exit_code == 0
    parts = [json.loads(Path(f"m-{part}.json").read_text()) for part in ("train", "heldout")]
    assert [len(part) for part in parts] == [7, 3]
    assert {sample["id"] for part in parts for sample in part} == set(map(str, range(10)))
