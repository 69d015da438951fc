"""What is printed is text: nothing that a file, a storage or a person named steers the terminal or reads as markup."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from acsearch.cli.options import echo
from acsearch.cli.screen import Screen, bold, dim
from acsearch.redaction import _Record
from acsearch.tables.names import columns, shortened
from support.fork_server import Forks
from support.small_table import ROWS, SHEET, STUDY
from trainers.errors import ConfigError, printable

PLAIN = settings(max_examples=300, deadline=None, derandomize=True)
TEXTS = st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]) | st.sampled_from("[/]\\ab:$"))
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e[red]x[/] [/nothing] :smile: \\"


def steers(text: str) -> set[str]:
    """The characters of a text that a terminal does not show."""
    return {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") and one != "\n"}


def printed(show: Callable[[Screen], object], width: int = 80, *, terminal: bool = False) -> str:
    file = io.StringIO()
    show(Screen(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


@PLAIN
@given(TEXTS, TEXTS)
def test_any_text_is_shown_as_text(one: str, two: str) -> None:
    shown = printed(lambda screen: screen.say("- ", one, bold(two), dim(one)))
    assert shown == f"- {printable(one)}{printable(two)}{printable(one)}\n"
    assert not steers(shown)
    shown = printed(lambda screen: screen.print(one))
    assert not steers(shown)
    for terminal in (True, False):
        shown = printed(lambda screen: screen.show_table([one, two], [[two, "1.5"]]), 60, terminal=terminal)
        assert not steers(shown)
        assert shown.splitlines()[1].endswith("1.5")


@PLAIN
@given(TEXTS)
def test_no_line_steers_the_terminal(text: str) -> None:
    assert not steers(printable(text))
    assert not steers(ConfigError(text).line)
    assert "\n" not in ConfigError(text).line
    record = _Record("mlflow", logging.ERROR, "", 1, "%s", (text,), None)
    assert not steers(record.getMessage())


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    out, err = capsys.readouterr()
    assert out == err == printable(HOSTILE) + "\n"
    assert not steers(out)


@PLAIN
@given(st.text(st.characters(categories=["L", "N", "P", "M"]), max_size=60), st.integers(3, 40))
def test_names_are_shortened_in_their_middle(name: str, width: int) -> None:
    short = shortened(name, width)
    assert columns(short) <= max(width, 0)
    assert short == name or ("…" in short and name.startswith(short.split("…")[0]))


@pytest.mark.parametrize("width", [60, 80])
def test_long_names_leave_room_for_the_numbers_of_a_terminal(width: int) -> None:
    names = ["clip-l14@336" + "x" * 130 + f"-{row}" for row in range(3)]
    rows = [[name, "49.75", "46.89 to 50.74", "0.49", "#2"] for name in names]
    header = ["representation", "expected", "80 % interval", "P(best)", "finetuned"]
    lines = printed(lambda screen: screen.show_table(header, rows), width, terminal=True).splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines[1:]):
        assert re.search(r"^clip.*….*" + str(number) + r" +49\.75 +46\.89 to 50\.74 +0\.49 +#2$", line)
        assert len(line) <= max(width, 64)
    piped = printed(lambda screen: screen.show_table(header, rows), width).splitlines()
    assert [line.split()[0] for line in piped[1:]] == names


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def acsearch(forked: Forks, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        environment = os.environ | forked.environment | variables
        command = forked.command(*arguments)
        done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode()

    return run


def written(folder: Path, names: dict[str, str], title: str = "t", source: str = "s") -> str:
    """A study of a small table, in which candidates have other names."""
    folder.mkdir(parents=True)
    lines = ["representation,benchmark,score,alignment,correspondence"]
    lines += [",".join([f'"{names.get(row[0], row[0])}"', *row[1:]]) for row in ROWS]
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "table.yaml").write_text(yaml.safe_dump(SHEET | {"title": title, "source": source}))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"title": title}))
    return str(folder)


def test_hostile_titles_sources_names_and_folders(acsearch: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    study = written(tmp_path / "a\x1b[31mb", {"clip": "[bold]clip[/x]", "dino": "[/]\\"}, HOSTILE, HOSTILE)
    for command in (
        ("study", "start", study, "--budget", "2"),
        ("study", "show", "mine"),
        ("study", "status", "mine"),
        ("study", "list"),
        ("study", "sync", "mine"),
        ("study", "report", "mine", "--out", f"{study}/report.html"),
        ("law", "fit", study, "--weights"),
        ("replay", study, "--budget", "2", "--repeats", "2"),
    ):
        code, said = acsearch(*command)
        assert code == 0, said
        assert not steers(said), command
        if command[1] in ("start", "show"):
            assert "[bold]clip[/x]" in said
            assert "\\x1b[2J" in said
    for command in (("law", "fit", "x\x1b[2Jy"), ("study", "report", "mine", "--out", f"{study}/none/\x1b/r.html")):
        assert not steers(acsearch(*command)[1])


def test_long_names_in_a_narrow_terminal(acsearch: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    names = {name: name + "x" * 150 for name in ("clip", "dino", "siglip", "sdxl", "dit")}
    study = written(tmp_path / "study", names)
    assert acsearch("study", "start", study, "--budget", "2")[0] == 0
    for command, numbers in ((("study", "show", "mine"), 3), (("study", "status", "mine"), 1), (("study", "list"), 1)):
        said = acsearch(*command, FORCE_COLOR="1", COLUMNS="80", TERM="xterm")[1]
        lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines() if "…" in line]
        assert lines
        for line in lines:
            assert len(line) <= 80
            assert len(re.findall(r"\d+\.\d+|\d of \d|complete", line)) >= numbers
    assert names["clip"] in acsearch("study", "show", "mine")[1]
