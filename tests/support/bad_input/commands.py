"""Commands that cannot be done, and what makes them so."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import yaml

from acsearch.config.study_file import load_study
from acsearch.study.start import start_study
from support.bad_input.cases import STUDY, TABLE, Case, command, swapped


def started(folder: Path) -> None:
    """A study `there` of one finetune in the folder's default storage, not yet run."""
    from acsearch.storage.home import Home

    (folder / "there.yaml").write_text(yaml.safe_dump(STUDY | {"name": "there"}), encoding="utf-8")
    config, home = load_study("there.yaml"), Home()
    storage, locks = home.open_storage(create=True), home.claims("there")
    start_study(storage, locks, name="there", config=config, budget=1)


def started_and_its_table_gone(folder: Path) -> None:
    started(folder)
    (folder / "table.csv").unlink()


def started_and_its_table_changed(folder: Path) -> None:
    started(folder)
    (folder / "table.csv").write_text(swapped(TABLE, "clip,gqa,50", "clip,gqa,49"), encoding="utf-8")


def no_database(folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "home" / "studies.db").write_text("not a database " * 100, encoding="utf-8")


def another_database(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "other.db")) as connection:
        connection.execute("CREATE TABLE studies_of_mine (name TEXT)")


def a_folder(folder: Path) -> None:
    (folder / "folder").mkdir()


def started_and_a_folder(folder: Path) -> None:
    started(folder)
    a_folder(folder)


LONG = "x" * 300
COMMANDS = {
    "nearly-a-shipped-table": command("law fit law_v9", "did you mean 'law_v"),
    "no-such-table": command("law fit nowhere.csv", "no table 'nowhere.csv': neither a file"),
    "no-table-in-folder": command(
        "law fit folder", "no table in the folder 'folder': it has no file table.csv", a_folder
    ),
    "table-name-too-long": command(f"law fit {LONG}", f"no table '{LONG}'"),
    "table-is-a-sheet": command("law fit table.yaml", "table.yaml, line 1: unknown column 'alignment: A_cos'"),
    "unknown-surrogate": command(
        "law fit table.csv --surrogate forest", "--surrogate 'forest': choose one of bayes, published"
    ),
    "unknown-term": command("law fit table.csv --terms A+B", "no term 'B' in 'A+B'; the terms are A, C, A2, AC, C2"),
    "terms-of-bayes": command(
        "law fit table.csv --surrogate bayes --terms A", "--terms belongs to --surrogate published"
    ),
    "terms-without-c": Case(
        "law fit table.csv --terms A+C",
        "terms C need correspondence",
        {"table.csv": re.sub(r",\d+$", ",", TABLE, flags=re.MULTILINE)},
    ),
    "unknown-prior": command("law fit table.csv --prior strong", "no prior 'strong': neither a file that exists nor"),
    "prior-name-too-long": command(f"law fit table.csv --prior {LONG}", f"no prior '{LONG}'"),
    "learn-without-sheet": Case(
        "law prior table.csv --out prior.yaml", "no metadata says which definition of A", {"table.csv": TABLE}
    ),
    "learn-over-a-file": command("law prior table.csv --out table.yaml", "table.yaml: exists already"),
    "learn-into-nowhere": command(
        "law prior table.csv --out no/prior.yaml", "no/prior.yaml: the folder is not there; make it first"
    ),
    "learn-infinity": command(
        "law prior table.csv --out prior.yaml --inflate inf", "not a usable prior: sd.A: Input should be a"
    ),
    "replay-subset-of-one": command("replay table.csv --subset 1", "--subset 1: the table has 5 candidates"),
    "replay-subset-too-large": command("replay table.csv --subset 6", "--subset 6: the table has 5 candidates"),
    "replay-budget-zero": command("replay table.csv --budget 0", "--budget 0: must be between 1 and the 5"),
    "replay-budget-too-large": command(
        "replay table.csv --subset 3 --budget 4", "--budget 4: must be between 1 and the 3"
    ),
    "replay-unknown-policy": command("replay table.csv --policy ucb,best", "no policy 'best'; known: default (ucb)"),
    "replay-unknown-statistic": command("replay table.csv --statistic mode", "--statistic 'mode': choose exact or"),
    "replay-unknown-prior": command("replay table.csv --prior strong", "no prior 'strong': neither a file"),
    "start-nowhere": command("study start law_v0", "no study 'law_v0': neither a file or folder that exists"),
    "start-in-empty-folder": command("study start folder", "no study in the folder 'folder': it has no file", a_folder),
    "start-again": command("study start law_v1 --name there", "study 'there' exists, 0 of 1 finetunes done", started),
    "start-in-no-url": command("study start law_v1 --storage here", "--storage (not a URL): not a study storage"),
    "start-in-unknown-kind": command(
        "study start law_v1 --storage what://x", "--storage what://x: not a study storage"
    ),
    "start-in-a-folder": command(
        "study start law_v1 --storage sqlite:///folder", "sqlite:///folder: not an SQLite database", a_folder
    ),
    "start-in-no-database": command("study start law_v1", "studies.db: not an SQLite database", no_database),
    "start-in-another-database": command(
        "study start law_v1 --storage sqlite:///other.db", "other.db: a database of something else", another_database
    ),
    "start-in-no-file": command("study start law_v1 --storage sqlite:///", "--storage sqlite:///: names no file"),
    "start-in-memory": command("study start law_v1 --storage sqlite://", "--storage sqlite://: names no file"),
    "record-in-another-database": command(
        "study start law_v1 --tracking sqlite:///other.db", "other.db: a database of something else", another_database
    ),
    "record-with-nobody": command("study start law_v1 --tracking http://127.0.0.1:9", "no answer: "),
    "record-in-unknown-kind": command("study start law_v1 --tracking nope://x", "--tracking nope://x: MLflow cannot"),
    "list-nothing": command("study list", "no studies yet"),
    "resume-lower": command("study resume there --budget 0", "--budget 0: the study has 1; choose 1 to 5", started),
    "resume-higher": command("study resume there --budget 6", "--budget 6: the study has 1; choose 1 to 5", started),
    "resume-without-table": command("study resume there", "no table '", started_and_its_table_gone),
    "resume-changed-table": command("study resume there", "has changed since the study", started_and_its_table_changed),
    "report-into-a-folder": command(
        "study report there --out folder", "folder: exists and is not", started_and_a_folder
    ),
    "report-below-a-file": command("study report there --out table.csv/x", "table.csv/x: the folder", started),
} | {
    f"{verb}-{name}": command(f"study {verb} {line}", says, prepare)
    for verb in ("resume", "show", "status", "report")
    for name, line, says, prepare in (
        ("before-any", "mine", "no studies yet: ", None),
        ("unknown", "mine", "no study 'mine': there are there", started),
        ("no-name", "../mine", "'../mine' is not a study's name", None),
        ("no-database", "mine", "studies.db: not an SQLite database: file is not", no_database),
        ("no-url", "mine --storage here", "--storage (not a URL): not a study storage", None),
    )
}
