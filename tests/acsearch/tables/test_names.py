"""A name that can be spelt in two ways, with an é in one piece or in two, is one name wherever it is read."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import yaml

from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from acsearch.errors import TableError
from acsearch.tables.table import parse_table
from support.small_table import HEADER, ROWS, SHEET, STUDY
from trainers.errors import ConfigError

NFC, NFD = (unicodedata.normalize(form, "modèle") for form in ("NFC", "NFD"))


def table(**names: str) -> str:
    rows = [[names.get(cell, cell) for cell in row] for row in ROWS]
    return "\n".join(map(",".join, [HEADER, *rows])) + "\n"


def test_twins_are_refused_as_doubles() -> None:
    assert NFC != NFD
    for column, names in (("representation", {"clip": NFC, "dino": NFD}), ("benchmark", {"gqa": NFC, "mme": NFD})):
        with pytest.raises(TableError, match=f"'{NFC}'.* is given twice"):
            parse_table(table(**names), column)


def test_both_spellings_are_one_name_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(table(gqa=NFD, clip=NFD), encoding="utf-8")
    scales = {NFC: {"floor": 0, "ceiling": 100}, "mme": {"floor": 0, "ceiling": 100}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(SHEET | {"benchmarks": scales}))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | {"objective": NFD}, allow_unicode=True))
    read = load_study(str(tmp_path))
    assert read.table.benchmarks == (NFC, "mme")
    assert read.table.representations[0] == read.file.objective == NFC
    scales = {NFC: scales[NFC], NFD: scales["mme"], "mme": scales["mme"]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(SHEET | {"benchmarks": scales}))
    with pytest.raises(ConfigError, match=f"'{NFC}' is given twice, in two spellings"):
        load_table(str(tmp_path))
