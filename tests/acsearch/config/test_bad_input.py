"""Whatever is wrong with an input: one line that says so, a failing exit code, no traceback, nothing half-written.

Every case breaks one thing in inputs that work, runs the real entry point, and looks for words that only its own check
says. They run in this process, for speed; a few are run as processes too.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from acsearch.cli import main as cli
from acsearch.config.prior_file import load_prior
from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from support.bad_input.cases import FIT, Case, prior, study
from support.bad_input.commands import COMMANDS, started
from support.bad_input.studies import PRIORS, STUDIES
from support.bad_input.tables import SHEETS, TABLES

CASES = {
    f"{kind}-{name}": case
    for kind, cases in (
        ("table", TABLES),
        ("sheet", SHEETS),
        ("prior", PRIORS),
        ("study", STUDIES),
        ("command", COMMANDS),
    )
    for name, case in cases.items()
}
AS_PROCESSES = ("table-nan", "study-unknown-key", "command-show-no-database")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACSEARCH_HOME", "home")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def made(case: Case, folder: Path) -> None:
    for name, content in case.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if case.prepare is not None:
        case.prepare(folder)


def present(folder: Path) -> dict[str, object]:
    """All that a person could take for a result: files by their bytes, databases by their studies, no locks."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if ".locks" in name or not path.is_file():
            continue
        found[name] = studies(path) if path.name == "studies.db" and is_database(path) else path.read_bytes()
    return {name: content for name, content in found.items() if content != []}


def is_database(path: Path) -> bool:
    return path.read_bytes().startswith(b"SQLite format 3")


def studies(database: Path) -> list[tuple[object, ...]]:
    """Names, attributes and trials of the studies in a storage."""
    connection = sqlite3.connect(database)
    try:
        query = """
            SELECT study_name, key, value_json, (SELECT count(*) FROM trials) FROM studies
            LEFT JOIN study_user_attributes USING (study_id)
        """
        return sorted(connection.execute(query).fetchall())
    finally:
        connection.close()


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of the entry point in this process."""
    monkeypatch.setattr(sys, "argv", ["acsearch", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def assert_one_line(errors: str, says: str) -> None:
    assert errors.startswith("error: ")
    assert errors.endswith("\n")
    assert len(errors.splitlines()) == 1, errors
    assert says in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_broken_input(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made(case, folder)
    before = present(folder)
    capfd.readouterr()
    code = run(case.command.split(), monkeypatch)
    output, errors = capfd.readouterr()
    assert code == 1
    assert output == ""
    assert_one_line(errors, case.says)
    assert present(folder) == before


@pytest.mark.parametrize("name", AS_PROCESSES)
def test_broken_input_as_a_process(name: str, folder: Path) -> None:
    made(CASES[name], folder)
    before = present(folder)
    arguments = [sys.executable, "-m", "acsearch", *CASES[name].command.split()]
    done = subprocess.run(arguments, cwd=folder, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert_one_line(done.stderr, CASES[name].says)
    assert present(folder) == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("law fit", "Missing argument 'TABLE'"),
        ("law fit table.csv --sede 1", "No such option: --sede"),
        ("law fit table.csv --seed -1", "'--seed': Input should be"),
        ("replay table.csv --budget many", "'--budget': Input should be"),
        ("replay table.csv --repeats 0", "'--repeats': Input should be"),
        ("replay table.csv --jobs 0", "'--jobs': Input should be"),
        ("law prior table.csv --out p.yaml --inflate 0.5", "'--inflate': Input should be"),
        ("law prior table.csv --out p.yaml --inflate nan", "'--inflate': Input should be"),
        ("study begin", "No such command 'begin'"),
    ],
)
def test_malformed_command(
    line: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such lines never reach acsearch: the usage is shown with the error, and the exit code is 2, as is the custom."""
    made(CASES["command-list-nothing"], folder)
    before = present(folder)
    assert run(line.split(), monkeypatch) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert says in errors
    assert "Traceback" not in errors
    assert present(folder) == before


def test_debug_shows_the_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(TABLES["nan"], folder)
    monkeypatch.setattr(sys, "argv", ["acsearch", "--debug", *FIT.split()])
    with pytest.raises(cli.AcsearchError, match="not a finite number"):
        cli.main()


def test_unbroken_inputs_are_accepted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the cases start from works, so that each fails for its own reason."""
    made(study(""), folder)
    made(prior(""), folder)  # replaces the table by the same one
    before = present(folder)
    assert run([*FIT.split(), "--json"], monkeypatch) == 0
    assert run(["law", "fit", "table.csv", "--prior", "prior.yaml", "--json"], monkeypatch) == 0
    assert capfd.readouterr().err == ""
    assert load_study(".").file.name == "mine"
    load_prior("prior.yaml").check(load_table("table.csv").metadata)
    started(folder)
    assert present(folder).keys() - before.keys() == {"there.yaml", "home/studies.db"}


def test_a_study_that_cannot_be_read_does_not_hide_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made(study(""), folder)
    started(folder)
    assert run(["study", "start", "law_v1", "--budget", "1"], monkeypatch) == 0
    (folder / "table.csv").unlink()
    capfd.readouterr()
    assert run(["study", "list"], monkeypatch) == 0
    output, errors = capfd.readouterr()
    assert "1 of 1" in output
    assert "there" in output
    assert "neither a file or folder that exists" in output
    assert errors == ""
    assert run(["study", "list", "--json"], monkeypatch) == 0
    one, other = json.loads(capfd.readouterr().out)
    assert (one["name"], one["finished"]) == ("law_v1", 1)
    assert other["name"] == "there"
    assert "no table" in other["error"]
