"""Damaged study files, sheets, tables, priors and registries: understood or refused, never anything else."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from acsearch.config.prior_file import priors
from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from acsearch.config.training import TrainingConfig
from acsearch.runners.plan import plan
from acsearch.study.checks import check_start
from support import ROOT, fuzzing
from support.fuzzing import accepted, cases, damaged_bytes, damaged_tree, laid_out
from support.small_table import FILES, SHEET, STUDY, TABLE, fitted, usable
from trainers.encoders import load_registry
from trainers.representation import PIECES, parse

TRAINING = yaml.safe_load((ROOT / "studies/llava15/study.yaml").read_text(encoding="utf-8"))
PRIOR = yaml.safe_load(priors()["weak"].read_text(encoding="utf-8"))
REGISTRY = yaml.safe_load((ROOT / "studies/micro/encoders.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACSEARCH_HOME", str(tmp_path / "home"))
    return tmp_path


# -- damage to YAML ----------------------------------------------------------------------------------------------------

# What YAML can say and JSON cannot: tags that do not fit, aliases of what is not there, of itself, and in billions.
VALUES = ["!!float ''", "!!int ''", "!!int x", "!!bool x", "!!timestamp x", "!!map [1]", "!!map x", "!!set [1]"]
VALUES += ["!!str {}", "!!binary é", "!!omap 1", "!!seq {a: 1}", "!!python/name:os.system", "!x", "*nowhere"]
VALUES += ["&a [*a]", "&a {a: *a}", "{<<: 1}", "&m {<<: *m}", "{<<: [&n {x: 1}, *n]}", "{? [1] : 2}"]
VALUES += ["{? {a: 1} : 2}", "=", "2024-13-45", "1:99:99", "0x", "0b2", "0o9", ".nan", "-.inf", "1_000"]
VALUES += ["|\n  a\n  b", ">", "'", '"\\ud800"', '"\\x00"', "%", "@a", "`", "[", "}", "2024-01-01 00:00:00 +99:99"]
VALUES += ["0001-01-01T00:00:00+23:59", "12e03", "!!null x", "!!pairs [1]", "!!merge x"]
LAUGHS = "&a0 [x, x, x, x, x, x, x, x, x]"
for _level in range(1, 9):
    LAUGHS = f"&a{_level} [{LAUGHS}{f', *a{_level - 1}' * 8}]"
VALUES.append(LAUGHS)


@st.composite
def damaged_yaml(draw: fuzzing.Draw, tree: Any) -> bytes:
    """A tree damaged in its keys and values, in its text, or in its bytes."""
    kind = draw(st.sampled_from(["tree", "tree", "tree", "text", "bytes"]))
    if kind == "tree":
        return yaml.safe_dump(draw(damaged_tree(tree)), allow_unicode=True).encode("utf-8", "surrogatepass")
    text = yaml.safe_dump(tree, width=1000, default_flow_style=False)
    if kind == "bytes":
        return draw(damaged_bytes(text.encode()))
    places = [match.span(1) for match in re.finditer(r"(?:: |- )(\S.*)$", text, flags=re.MULTILINE)]
    start, end = draw(st.sampled_from(places))
    return (text[:start] + draw(st.sampled_from(VALUES)) + text[end:]).encode()


@cases(250, damaged_yaml(STUDY))
def test_study_file(folder: Path, damaged: bytes) -> None:
    laid_out(folder, FILES | {"study.yaml": damaged})

    def read() -> None:
        config = load_study("study.yaml")
        check_start(config.file, config.table, config.prior, 1)
        usable(config.table)

    accepted(read, folder, ["study.yaml", "table.csv", "no table", "prior", "polic", "objective"])


@cases(200, damaged_yaml(TRAINING))
def test_study_file_that_trains(folder: Path, damaged: bytes) -> None:
    laid_out(folder, {"study.yaml": damaged})

    def read() -> None:
        config = load_study("study.yaml")
        check_start(config.file, config.table, config.prior, 1)
        recipe = config.file.training
        assert recipe is None or TrainingConfig.model_validate_json(recipe.model_dump_json()) == recipe

    accepted(read, folder, ["study.yaml", "prior", "polic", "objective", "benchmark", "budget", "no table"])


@cases(200, damaged_yaml(SHEET))
def test_sheet(folder: Path, damaged: bytes) -> None:
    laid_out(folder, {"table.csv": TABLE.encode(), "table.yaml": damaged})

    def read() -> None:
        table = load_table("table.csv")
        usable(table)
        fitted(table, "weak")

    accepted(read, folder, ["table.yaml", "table.csv"])


@cases(200, damaged_yaml(PRIOR))
def test_prior(folder: Path, damaged: bytes) -> None:
    laid_out(folder, FILES | {"prior.yaml": damaged})
    accepted(lambda: fitted(load_table("table.csv"), "prior.yaml"), folder, ["prior.yaml", "prior 'prior'"])


@cases(150, damaged_yaml(REGISTRY))
def test_registry(folder: Path, damaged: bytes) -> None:
    laid_out(folder, {"encoders.yaml": damaged})

    def read() -> None:
        for spec in load_registry(Path("encoders.yaml")).values():
            assert all(map(math.isfinite, (*spec.mean, *spec.std)))

    accepted(read, folder, ["encoders.yaml"])


SMALL = TRAINING | {"training": TRAINING["training"] | {"candidates": ["clip-l14@224", "siglip-b16@224"]}}


@cases(10, damaged_tree(SMALL).map(lambda tree: yaml.safe_dump(tree).encode("utf-8", "surrogatepass")))
def test_plan(folder: Path, damaged: bytes) -> None:
    laid_out(folder, {"study.yaml": damaged})

    def read() -> None:
        planned = plan(load_study("study.yaml"), 1)
        numbers = [planned.scoring, planned.finetuning_most, planned.everything, planned.memory_gb, planned.disk_gb]
        assert all(map(math.isfinite, numbers))

    accepted(read, folder, ["study.yaml", "prior", "benchmark", "encoder", "llm", "is not there yet", "connector", "@"])


PIECES = [
    "clip-l14",
    "@",
    "336",
    "+",
    "|",
    ":",
    "-1",
    "0",
    "9" * 20,
    "9" * 5000,
    "x",
    " ",
    "Ü",
    "\x00",
    *PIECES,
]


@cases(100, st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
def test_name_of_a_representation(folder: Path, damaged: str) -> None:
    def read() -> None:
        assert parse(str(found := parse(damaged))) == found

    accepted(read, folder, ["cannot read", "the size of", "the common grid", "the connector"])
