"""Inputs with one thing wrong: the files and the command of each case, and what its one line of error must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from acsearch.config.prior_file import priors

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
