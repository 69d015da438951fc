"""Damaged recorded tables: read as numbers that the law can be fitted to, or refused; and so at the command line."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from acsearch.cli import main as cli
from acsearch.config.table_file import load_table
from support import fuzzing
from support.fuzzing import accepted, assert_helpful, cases, contents, damaged_bytes, laid_out
from support.small_table import FILES, HEADER, ROWS, STUDY, TABLE, fitted, usable

CELLS = ["", " ", "nan", "NaN", "inf", "-inf", "1e400", "1e300", "-1e12", "1e12", "1e-300", "5e-324", "0", "-0"]
CELLS += ["51", "50.0000000001", "5_1", "٥١", "0x10", "51%", "1,5", "n/a", "#REF!", "=1+1", "\x00", "\x1b[31m", "☃"]
CELLS += ["x" * 300, "a\nb", '"', "mean", "clip", "gqa", "1e999999999", "9" * 400, "+-1", "1 2", "True", "\u202e"]
CELLS += ["\ufeff", "clip\u200b", " clip", "C", "0.1"]
CODECS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "cp037", "utf-7"]


@st.composite
def damaged_table(draw: fuzzing.Draw) -> bytes:
    """A CSV with columns, lines or cells dropped, doubled, moved or replaced, in another dialect, encoding or cut."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(TABLE.encode()))
    lines = [list(line) for line in [HEADER, *ROWS]]
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        row, column = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 4))
        kind = draw(
            st.sampled_from(["cell"] * 8 + ["column", "no column", "line", "no line", "short", "long", "swap", "same"])
        )
        if kind == "cell":
            lines[row][column : column + 1] = [
                draw(st.sampled_from(CELLS) | st.text(max_size=5) | st.floats().map(repr))
            ]
        elif kind == "column":
            other = draw(st.sampled_from([*HEADER, "standard_error", "seed", ""]))
            lines = [
                [*line, other if not at else draw(st.sampled_from(["", "1", "-1", "x"]))]
                for at, line in enumerate(lines)
            ]
        elif kind == "no column":
            lines = [line[:column] + line[column + 1 :] for line in lines]
        elif kind == "line":
            lines.insert(row, list(draw(st.sampled_from(lines))))
        elif kind == "no line" and len(lines) > 1:
            del lines[row]
        elif kind == "short":
            del lines[row][column:]
        elif kind == "long":
            lines[row] += ["1"] * draw(st.integers(1, 3))
        elif kind == "swap":
            lines = [line[column:] + line[:column] for line in lines]
        elif kind == "same":
            value = draw(st.sampled_from(CELLS))
            lines = [lines[0], *([*line[:column], value, *line[column + 1 :]] for line in lines[1:])]
    text = io.StringIO()
    delimiter = draw(st.sampled_from([",", ",", ",", ",", ",", ",", ";", "\t"]))
    with contextlib.suppress(csv.Error):
        csv.writer(text, delimiter=delimiter, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"]))).writerows(
            lines
        )
    return text.getvalue().encode(draw(st.sampled_from(CODECS)), "replace")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACSEARCH_HOME", str(tmp_path / "home"))
    return tmp_path


@cases(200, st.tuples(damaged_table(), st.booleans()))
def test_table(folder: Path, damaged: tuple[bytes, bool]) -> None:
    content, with_sheet = damaged
    laid_out(folder, {"table.csv": content} | ({"table.yaml": FILES["table.yaml"]} if with_sheet else {}))

    def read() -> None:
        table = load_table("table.csv")
        usable(table)
        fitted(table, "weak")

    accepted(read, folder, ["table.csv", "table.yaml"])


COMMANDS = ["law fit .", "law fit . --surrogate published --json", "law prior . --out learnt.yaml"]
COMMANDS += ["replay . --repeats 1 --jobs 1", "study start . --dry-run", "study plan ."]
COMMANDS += ["law fit table.csv --weights"]


@st.composite
def damaged_inputs(draw: fuzzing.Draw) -> tuple[str, dict[str, bytes]]:
    """A command, and its study's files, one of which is damaged."""
    files = FILES | {"study.yaml": yaml.safe_dump(STUDY).encode()}
    name = draw(st.sampled_from(sorted(files)))
    damage = damaged_table() if name == "table.csv" else damaged_bytes(files[name])
    return draw(st.sampled_from(COMMANDS)), files | {name: draw(damage)}


@cases(40, damaged_inputs())
def test_at_the_command_line(folder: Path, damaged: tuple[str, dict[str, bytes]]) -> None:
    command, files = damaged
    laid_out(folder, files)
    before = contents(folder)
    code, output, errors = run(command)
    written = {name: content for name, content in contents(folder).items() if before.get(name) != content}
    if code:
        assert code == 1
        assert output == ""
        assert errors.startswith("error: ")
        assert errors.endswith("\n")
        assert errors.count("\n") == 1
        assert_helpful(
            errors[:-1],
            [
                "table.csv",
                "table.yaml",
                "study.yaml",
                "study 'mine'",
                "--budget",
                "prior",
                "subset",
                "polic",
                "objective",
                "no table",
            ],
        )
        assert not written
    else:
        assert errors == ""
        assert output
        assert set(written) <= {"learnt.yaml"}


def run(command: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the real entry point, in this process."""
    output, errors, given = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["acsearch", *command.split()]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            cli.main()
        raise AssertionError("the entry point returned")
    except SystemExit as stopped:
        return int(stopped.code or 0), output.getvalue(), errors.getvalue()
    finally:
        sys.argv = given
