"""Damaged study files, sheets, tables, priors and registries: understood or refused, never anything else."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
import yaml
from fuzzing import accepted, cases, damaged_bytes, damaged_tree, laid_out
from hypothesis import strategies as st

from acsearch.config.prior_file import load_prior, priors
from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from acsearch.config.training import Recipe
from acsearch.law.diagnostics import diagnose
from acsearch.law.features import WITHOUT_C
from acsearch.law.least_squares import PublishedLaw
from acsearch.law.registry import make_surrogate
from acsearch.runners.plan import plan
from acsearch.study.checks import check_start
from acsearch.tables.table import Table
from trainers.encoders import load_registry
from trainers.representation import CONNECTORS, JOININGS, parse

ROOT = Path(__file__).parent.parent
ROWS = [
    [name, task, str(50 + 3 * i + j * i), f"0.{i + 1}{j}", str(10 + i * i)]
    for i, name in enumerate(("clip", "dino", "siglip", "sdxl", "dit"))
    for j, task in enumerate(("gqa", "mme"))
]
HEADER = ["representation", "benchmark", "score", "alignment", "correspondence"]
TABLE = "\n".join(map(",".join, [HEADER, *ROWS])) + "\n"
SHEET = {
    "title": "t",
    "alignment": "A_cos",
    "correspondence": "C",
    "benchmarks": {"gqa": {"floor": 0, "ceiling": 100}, "mme": {"floor": 0, "ceiling": 100}},
}
STUDY = {"name": "mine", "title": "t", "table": "table.csv", "policy": "ucb", "prior": "weak", "objective": "gqa"}
TRAINING = yaml.safe_load((ROOT / "studies/llava15/study.yaml").read_text(encoding="utf-8"))
PRIOR = yaml.safe_load(priors()["weak"].read_text(encoding="utf-8"))
REGISTRY = yaml.safe_load((ROOT / "studies/micro/encoders.yaml").read_text(encoding="utf-8"))
FILES = {"table.csv": TABLE.encode(), "table.yaml": yaml.safe_dump(SHEET).encode()}


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


def usable(table: Table) -> None:
    """All numbers are there, but for a C that nobody measured."""
    for values in (table.scores, table.alignment, table.scaled, table.floor, table.span):
        assert np.isfinite(values).all()
    assert (table.span > 0).all()
    assert np.isfinite(table.correspondence).all() or np.isnan(table.correspondence).any()
    assert len(set(table.representations)) == len(table.representations) == len(table.scores)


def fitted(table: Table, prior: str) -> None:
    """The published and the Bayesian law on the table, with nothing infinite in them."""
    load_prior(prior).check(table.sheet)
    if len(table.representations) < 4:
        return
    published = PublishedLaw() if table.has_correspondence else PublishedLaw(WITHOUT_C)
    for name, law in (("published", published), ("bayes", make_surrogate("bayes", table, load_prior(prior), ""))):
        found = diagnose(table, name, law, noise_fits=1)
        for benchmark in found.benchmarks.values():
            assert math.isfinite(benchmark.r2), name
            assert not math.isinf(benchmark.r2_loo), name
            assert all(map(math.isfinite, benchmark.residuals.values())), name


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
        assert recipe is None or Recipe.model_validate_json(recipe.model_dump_json()) == recipe

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
    *CONNECTORS,
    *JOININGS,
]


@cases(100, st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
def test_name_of_a_representation(folder: Path, damaged: str) -> None:
    def read() -> None:
        assert parse(str(found := parse(damaged))) == found

    accepted(read, folder, ["cannot read", "the size of", "the common grid", "the connector"])
