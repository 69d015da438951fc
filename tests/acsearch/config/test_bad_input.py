"""Whatever is wrong with an input: one line that says so, a failing exit code, no traceback, nothing half-written.

Every case breaks one thing in inputs that work, runs the real entry point, and looks for words that only its own check
says. They run in this process, for speed; a few are run as processes too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from acsearch.cli import main as cli
from acsearch.config.prior_file import load_prior, priors
from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from acsearch.study.start import start_study

HEADER = "representation,benchmark,score,alignment,correspondence"
TABLE = HEADER + "".join(
    f"\n{name},{task},{50 + 3 * i + j},0.{i + 1}{j},{10 + i}"
    for i, name in enumerate(("clip", "dino", "siglip", "sdxl", "dit"))
    for j, task in enumerate(("gqa", "mme"))
)  # line 2 is clip,gqa,50,0.10,10 and line 3 is clip,mme,51,0.11,10
SHEET = """\
alignment: A_cos
correspondence: C
benchmarks:
  gqa: {floor: 0, ceiling: 100}
  mme: {floor: 0, ceiling: 100}
"""
STUDY = {"name": "mine", "table": "table.csv"}
FIT = "law fit table.csv --surrogate published"


@dataclass(frozen=True)
class Case:
    """A command, in a folder with these files, and what its one line must say.

    prepare: makes what text cannot, such as a study that has been started.
    """

    command: str
    says: str
    files: dict[str, str | bytes]
    prepare: Callable[[Path], None] | None = None


def swapped(text: str, old: str, new: str) -> str:
    """Exactly one place of a text changed."""
    assert text.count(old) == 1, (old, text)
    return text.replace(old, new)


def table(content: str | bytes, says: str) -> Case:
    return Case(FIT, says, {"table.csv": content})


def cell(old: str, new: str, says: str) -> Case:
    return table(swapped(TABLE, old, new), says)


def sheet(content: str | bytes, says: str) -> Case:
    return Case(FIT, says, {"table.csv": TABLE, "table.yaml": content})


def study(says: str, options: str = "", *, without: str = "", **keys: object) -> Case:
    data = {key: value for key, value in (STUDY | keys).items() if key != without}
    files: dict[str, str | bytes] = {"table.csv": TABLE, "table.yaml": SHEET, "study.yaml": yaml.safe_dump(data)}
    return Case(f"study start . {options}", says, files)


def command(line: str, says: str, prepare: Callable[[Path], None] | None = None) -> Case:
    return Case(line, says, {"table.csv": TABLE, "table.yaml": SHEET}, prepare)


def prior(says: str, *, without: str = "", **keys: object) -> Case:
    data = yaml.safe_load(priors()["weak"].read_text(encoding="utf-8")) | keys
    text = yaml.safe_dump({key: value for key, value in data.items() if key != without})
    return Case("law fit table.csv --prior prior.yaml", says, {"table.csv": TABLE, "prior.yaml": text})


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


def a_loop(folder: Path) -> None:
    (folder / "loop.csv").symlink_to("loop.csv")


def started_and_a_folder(folder: Path) -> None:
    started(folder)
    a_folder(folder)


def sheet_is_a_folder(folder: Path) -> None:
    (folder / "table.yaml").unlink()
    (folder / "table.yaml").mkdir()


def flat(column: int) -> str:
    """The table with one column the same everywhere."""
    lines = [line.split(",") for line in TABLE.splitlines()]
    return "\n".join(
        ",".join([*line[:column], "7" if i else line[column], *line[column + 1 :]]) for i, line in enumerate(lines)
    )


TABLES = {
    "empty": table("", "the file is empty"),
    "header-only": table(HEADER, "no line after the header"),
    "binary": table(bytes(range(256)), "table.csv: not UTF-8 text (byte 128)"),
    "utf-16": table(TABLE.encode("utf-16"), "table.csv: not UTF-8 text (byte 0)"),
    "latin-1": table(swapped(TABLE, "clip,gqa", "clïp,gqa").encode("latin-1"), "table.csv: not UTF-8 text (byte 58)"),
    "semicolons": table(TABLE.replace(",", ";"), "line 1: unknown column 'representation;benchmark"),
    "no-header": table(TABLE.split("\n", 1)[1], "line 1: unknown column 'clip'"),
    "missing-column": table("\n".join(line.rsplit(",", 1)[0] for line in TABLE.splitlines()), "missing column 'corr"),
    "unknown-column": table("\n".join(f"{line},x" for line in TABLE.splitlines()), "line 1: unknown column 'x'"),
    "doubled-column": cell("alignment", "score", "line 1: doubled column 'score'"),
    "misspelt-column": cell("alignment", "Alignment", "line 1: unknown column 'Alignment'"),
    "spaced-column": cell(",alignment", ", alignment", "line 1: unknown column ' alignment'"),
    "too-few-cells": cell("clip,gqa,50,0.10,10", "clip,gqa,50,0.10", "line 2: 4 cells where the header has 5"),
    "too-many-cells": cell("clip,gqa,50,0.10,10", "clip,gqa,50,0.10,10,1", "line 2: 6 cells where the header has 5"),
    "unquoted-decimal-comma": cell("clip,gqa,50,", "clip,gqa,50,5,", "line 2: 6 cells where the header has 5"),
    "decimal-comma": cell("clip,gqa,50,", 'clip,gqa,"50,5",', "line 2, column score: '50,5' is not a number"),
    "empty-score": cell("clip,mme,51,", "clip,mme,,", "line 3, column score: the cell is empty"),
    "blank-score": cell("clip,mme,51,", "clip,mme,  ,", "line 3, column score: the cell is empty"),
    "empty-alignment": cell("51,0.11,", "51,,", "line 3, column alignment: the cell is empty"),
    "nan": cell("clip,mme,51,", "clip,mme,NaN,", "line 3, column score: 'NaN' is not a finite number"),
    "nan-correspondence": cell("51,0.11,10", "51,0.11,nan", "line 3, column correspondence: 'nan' is not a finite"),
    "infinite": cell("51,0.11,", "51,-inf,", "line 3, column alignment: '-inf' is not a finite number"),
    "beyond-floats": cell("clip,mme,51,", "clip,mme,1e400,", "line 3, column score: '1e400' is not a finite number"),
    "huge": cell("51,0.11,", "51,1e300,", "line 3, column alignment: '1e300' is out of range"),
    "text": cell("clip,mme,51,", "clip,mme,n/a,", "line 3, column score: 'n/a' is not a number"),
    "percent": cell("clip,mme,51,", "clip,mme,51%,", "line 3, column score: '51%' is not a number"),
    "underscored-number": cell("clip,mme,51,", "clip,mme,5_1,", "line 3, column score: '5_1' is not a number"),
    "foreign-digits": cell("clip,mme,51,", "clip,mme,٥١,", "line 3, column score: '٥١' is not a number"),
    "nul-in-a-number": cell("clip,mme,51,", "clip,mme,5\x001,", r"line 3, column score: '5\x001' is not a number"),
    "nul-in-a-name": cell("clip,mme", "cl\x00ip,mme", r"line 3, column representation: 'cl\x00ip' is not a name"),
    "escape-in-a-name": cell("clip,mme", "\x1b[31mclip,mme", r"representation: '\x1b[31mclip' is not a name"),
    "newline-in-a-name": cell("clip,gqa", '"cl\nip",gqa', r"line 3, column representation: 'cl\nip' is not a name"),
    "invisible-in-a-name": cell("clip,mme", "clip\u200b,mme", r"representation: 'clip\u200b' is not a name"),
    "space-before-a-name": cell("clip,mme", " clip,mme", "line 3, column representation: ' clip' is not a name"),
    "space-after-a-name": cell("clip,mme", "clip,mme ", "line 3, column benchmark: 'mme ' is not a name"),
    "empty-name": cell("clip,mme", ",mme", "line 3, column representation: '' is not a name"),
    "benchmark-too-long": table(TABLE.replace("mme", 201 * "m"), "200 at most"),
    "benchmark-called-mean": table(TABLE.replace("mme", "mean"), "column benchmark: 'mean' stands for the average"),
    "unterminated-quote": cell("clip,mme", '"clip,mme', "line 11: not readable as CSV: unexpected end of data"),
    "text-after-a-quote": cell("clip,mme", '"cl"ip,mme', "line 3: not readable as CSV: ',' expected after '\"'"),
    "endless-cell": cell("clip,mme", "c" * 200_000 + ",mme", "line 3: not readable as CSV: field larger than"),
    "duplicate": table(f"{TABLE}\nclip,mme,51,0.11,10", "line 12: 'clip' on 'mme' is given twice, first on line 3"),
    "missing-combination": cell("\nclip,mme,51,0.11,10", "", "no line for representation 'clip' on benchmark 'mme'"),
    "one-representation": table("\n".join(TABLE.splitlines()[:3]), "only one representation, 'clip'"),
    "three-representations": table("\n".join(TABLE.splitlines()[:7]), "leaving one out needs four or more"),
    "constant-score": table(flat(2), "benchmark 'gqa' has the same score (7) for every representation"),
    "constant-alignment": table(flat(3), "benchmark 'gqa' has the same alignment (7) for every representation"),
    "constant-correspondence": table(flat(4), "correspondence is 7 everywhere; leave the cells empty"),
    "constant-but-for-rounding": table(
        "\n".join([HEADER, *(f"{name},gqa,{name},{0.1 + 1e-17 * (name == 1)!r},{name}" for name in range(5))]),
        "benchmark 'gqa' has the same alignment (0.1)",
    ),
    "correspondence-differs": cell(
        "51,0.11,10", "51,0.11,11", "line 3: 'clip' has correspondence 11, but 10 on line 2"
    ),
    "correspondence-half-empty": cell("51,0.11,10", "51,0.11,", "'clip' has correspondence empty, but 10 on line 2"),
}

SHEETS = {
    "empty": sheet("", "table.yaml: expected keys and values, found nothing"),
    "list": sheet("- a\n", "table.yaml: expected keys and values, found a list"),
    "binary": sheet(b"\xff\xfe\x00", "table.yaml: not UTF-8 text"),
    "broken": sheet("benchmarks: {gqa: [", "table.yaml: not readable as YAML: while parsing"),
    "tab": sheet("\talignment: A_cos", "cannot start any token"),
    "two-documents": sheet(f"{SHEET}---\n{SHEET}", "expected a single document"),
    "doubled-key": sheet(SHEET + "alignment: A_ll\n", "key 'alignment' is given twice (line 6)"),
    "doubled-benchmark": sheet(SHEET + "  gqa: {floor: 0, ceiling: 9}\n", "key 'gqa' is given twice (line 6)"),
    "no-such-date": sheet(
        SHEET + "title: 2024-13-01\n", "not readable as YAML: line 6: '2024-13-01' is no timestamp: month must be"
    ),
    "endless-number": sheet(SHEET + f"title: {'9' * 5000}\n", "is no int: Exceeds the limit"),
    "endless-nesting": sheet("[" * 500, "table.yaml: not readable as YAML: maximum recursion depth"),
    "code": sheet(SHEET + "title: !!python/name:os.system\n", "could not determine a constructor for the tag"),
    "control-character": sheet("title: \x07\n", "special characters are not allowed"),
    "misspelt-key": sheet(swapped(SHEET, "alignment", "alignement"), "'alignement'; did you mean 'alignment'?"),
    "misspelt-inner-key": sheet(
        swapped(SHEET, "gqa: {floor", "gqa: {flor"), "unknown key 'benchmarks.gqa.flor'; did you mean 'floor'?"
    ),
    "unknown-key": sheet(SHEET + "zzz: 1\n", "unknown key 'zzz'; known: title, source,"),
    "missing-key": sheet(swapped(SHEET, "alignment: A_cos\n", ""), "key 'alignment' is missing"),
    "unknown-definition": sheet(
        swapped(SHEET, "A_cos", "A_cosine"), "alignment: Input should be 'A_cos', 'A_ll', 'A_ll_train' or"
    ),
    "no-benchmarks": sheet(
        "alignment: A_ll\ncorrespondence: C\nbenchmarks: {}\n", "benchmarks: Dictionary should have"
    ),
    "benchmark-without-scale": sheet(swapped(SHEET, "mme: {floor: 0, ceiling: 100}", "mme:"), "benchmarks.mme: Input"),
    "benchmark-is-a-number": sheet(SHEET + "  7: {floor: 0, ceiling: 9}\n", "benchmarks.7.[key]: Input should be a"),
    "floor-is-text": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: low"), "benchmarks.gqa.floor: Input should be"
    ),
    "floor-is-a-quoted-number": sheet(swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: '0'"), "valid number, got '0'"),
    "floor-is-a-truth": sheet(swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: yes"), "valid number, got True"),
    "ceiling-is-nan": sheet(
        swapped(SHEET, "gqa: {floor: 0, ceiling: 100", "gqa: {floor: 0, ceiling: .nan"), "finite number"
    ),
    "ceiling-is-huge": sheet(
        swapped(SHEET, "gqa: {floor: 0, ceiling: 100", "gqa: {floor: 0, ceiling: 1e300"), "less than or"
    ),
    "floor-above-ceiling": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: 200"), "benchmarks.gqa: floor 200 must be below ceiling 100"
    ),
    "floor-at-ceiling": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: 100"), "benchmarks.gqa: floor 100 must be below ceiling 100"
    ),
    "benchmark-missing": sheet(SHEET.replace("  mme: {floor: 0, ceiling: 100}\n", ""), "no floor and ceiling for mme"),
    "benchmark-extra": sheet(
        SHEET + "  pope: {floor: 0, ceiling: 100}\n", "names pope, of which the table has no line"
    ),
    "score-above-ceiling": sheet(
        swapped(SHEET, "mme: {floor: 0, ceiling: 100", "mme: {floor: 0, ceiling: 60"),
        "table.csv, line 11, column score: 63 is above the ceiling 60 of 'mme'",
    ),
    "correspondence-denied": sheet(
        swapped(SHEET, "correspondence: C", "correspondence: none"), "says correspondence: none"
    ),
    "folder": command(FIT, "table.yaml: Is a directory", sheet_is_a_folder),
}

PRIORS = {
    "missing-key": prior("prior.yaml: key 'noise' is missing", without="noise"),
    "unknown-key": prior("unknown key 'nose'; did you mean 'noise'?", nose=1.0),
    "missing-term": prior("prior.yaml: mean must give exactly A, C, A2, AC, C2, not A, C", mean={"A": 0.5, "C": 0.2}),
    "unknown-term": prior("term_sets: no term 'Q' in 'A+Q'", term_sets={"A+Q": 1.0}),
    "negative-sd": prior(
        "prior.yaml: sd.C2: Input should be greater than or equal to 0.0001, got -1.0",
        sd={"A": 0.5, "C": 0.3, "A2": 0.4, "AC": 0.4, "C2": -1.0},
    ),
    "sharing-of-one": prior("prior.yaml: sharing.0: Input should be less than 1", sharing=[1.0]),
    "empty-grid": prior("prior.yaml: misfit: List should have at least 1 item", misfit=[]),
    "text": prior("prior.yaml: noise: Input should be a valid number, got 'low'", noise="low"),
    "other-definition": prior("prior 'prior' belongs to A as A_ll, but the table's is unstated", alignment=["A_ll"]),
}

STUDIES = {
    "list": Case("study start .", "study.yaml: expected keys and values, found a list", {"study.yaml": "- name\n"}),
    "empty": Case("study start .", "study.yaml: expected keys and values, found nothing", {"study.yaml": ""}),
    "a-table": Case("study start table.csv", "expected keys and values, found a str", {"table.csv": TABLE}),
    "unknown-key": study("study.yaml: unknown key 'polizy'; did you mean 'policy'?", polizy="ucb"),
    "missing-table": study("study.yaml: give a table, which finetunes are looked up in, or training", without="table"),
    "missing-name": study("study.yaml: key 'name' is missing", without="name"),
    "seed-is-text": study("study.yaml: seed: Input should be a valid integer, got 'one'", seed="one"),
    "seed-is-a-quoted-number": study("study.yaml: seed: Input should be a valid integer, got '1'", seed="1"),
    "seed-is-a-truth": study("study.yaml: seed: Input should be a valid integer, got True", seed=True),
    "seed-is-a-fraction": study("study.yaml: seed: Input should be a valid integer, got 1.5", seed=1.5),
    "seed-is-negative": study("study.yaml: seed: Input should be greater than or equal to 0, got -1", seed=-1),
    "seed-is-too-large": study("study.yaml: seed: Input should be less than 4294967296", seed=2**32),
    "table-is-a-list": study("study.yaml: table: Input should be a valid string", table=["table.csv"]),
    "name-is-a-number": study("study.yaml: name: Input should be a valid string, got 5", name=5),
    "name-with-a-slash": study("study.yaml: name: String should match pattern", name="a/b"),
    "name-with-a-space": study("study.yaml: name: String should match pattern", name="a b"),
    "name-going-up": study("study.yaml: name: String should match pattern", name="../up"),
    "name-with-a-newline": study("study.yaml: name: String should match pattern", name="mine\n"),
    "name-empty": study("study.yaml: name: String should match pattern", name=""),
    "name-too-long": study("study.yaml: name: String should match pattern", name="x" * 101),
    "unknown-policy": study("no policy 'ucp'; known: default (ucb)", policy="ucp"),
    "oracle": study("the policy 'oracle' looks at scores that a study does not have", policy="oracle"),
    "unknown-objective": study("objective 'pope': neither 'mean' nor one of gqa, mme", objective="pope"),
    "unknown-prior": study("neither a file that exists nor one of", prior="week"),
    "prior-is-a-table": study("table.csv: expected keys and values, found a str", prior="table.csv"),
    "no-such-table": study("tabel.csv': neither a file or folder that exists", table="tabel.csv"),
    "table-with-nul": study("study.yaml: table: String should match pattern", table="table\x00.csv"),
    "budget-zero": study("--budget 0: must be between 1 and the 5 candidates", "--budget 0"),
    "budget-negative": study("--budget -3: must be between 1 and the 5 candidates", "--budget -3"),
    "budget-too-large": study("--budget 6: must be between 1 and the 5 candidates", "--budget 6"),
    "name-option": study("--name: String should match pattern", "--name a/b"),
    "policy-option": study("no policy 'best'", "--policy best"),
    "objective-option": study("objective 'fame': neither 'mean'", "--objective fame"),
    "seed-option": study("--seed: Input should be less than 4294967296", "--seed 4294967296"),
    "table-is-a-loop": Case(
        "study start .",
        "loop.csv': neither a file",
        {"study.yaml": yaml.safe_dump(STUDY | {"table": "loop.csv"})},
        a_loop,
    ),
    "broken-table": Case(
        "study start .",
        "line 3, column score: 'NaN' is not a finite number",
        {"study.yaml": yaml.safe_dump(STUDY), "table.csv": swapped(TABLE, "clip,mme,51,", "clip,mme,NaN,")},
    ),
    "prior-of-another-definition": Case(
        "study start .",
        "prior 'other' belongs to A as A_ll, but the table's is A_cos",
        {
            "study.yaml": yaml.safe_dump(STUDY | {"prior": "other.yaml"}),
            "table.csv": TABLE,
            "table.yaml": SHEET,
            "other.yaml": priors()["weak"].read_text(encoding="utf-8").replace("alignment: [any]", "alignment: [A_ll]"),
        },
    ),
}

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
        "law prior table.csv --out no/prior.yaml", "no/prior.yaml: No such file or directory"
    ),
    "learn-infinity": command(
        "law prior table.csv --out prior.yaml --inflate inf", "prior.yaml: not a usable prior: sd.A: Input should be a"
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
    "report-into-a-folder": command("study report there --out folder", "--out folder: Is a dir", started_and_a_folder),
    "report-below-a-file": command("study report there --out table.csv/x", "--out table.csv/x: File exists", started),
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
