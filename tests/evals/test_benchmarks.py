"""Benchmarks as data: their scales, and what is wrong in a file of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from acsearch.config.table_file import load_table
from evals import benchmark, load_benchmarks
from studies.micro import world
from support import ROOT
from support.evaluation import LAW
from trainers.errors import ConfigError


def test_the_papers_benchmarks_have_the_scales_of_its_table() -> None:
    sheet = load_table("law_v1").metadata
    ours = {name: (benchmark.floor, benchmark.ceiling) for name, benchmark in LAW.items()}
    assert ours == {scale.name: (scale.floor, scale.ceiling) for scale in sheet.benchmarks}


def test_the_micro_benchmarks_have_the_worlds_floors() -> None:
    ours = {one.name: (one.floor, one.ceiling) for one in load_benchmarks("micro")}
    assert ours == {one.name: (one.floor, one.ceiling) for one in world.BENCHMARKS.values()}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"flor": 1}, "unknown key 'flor'; did you mean 'floor'"),
        ({"floor": 100}, "floor 100 must be below ceiling 100"),
        ({"definition": "nowhere.yaml"}, "the definition nowhere.yaml does not exist"),
        ({"units": "guess"}, "units: Input should be"),
    ],
)
def test_a_benchmark_that_cannot_be_used_says_why(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    (tmp_path / "task.yaml").write_text("output_type: generate_until\n")
    good = {"task": "t", "definition": "task.yaml", "metric": "m", "floor": 0, "ceiling": 100}
    file.write_text(yaml.safe_dump({"own": {"one": good | entry}}))
    with pytest.raises(ConfigError, match=r"own\.one") as error:
        load_benchmarks("own", file=file)
    assert message in str(error.value)


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'seed_image'"):
        load_benchmarks("law", ["seed_imag"])


def test_benchmarks_are_found_by_name_alone() -> None:
    every = [one for which in ("law", "micro", "easy_vqa") for one in load_benchmarks(which)]
    assert [benchmark(one.name) for one in every] == every
    with pytest.raises(ConfigError, match="did you mean 'micro_part'"):
        benchmark("micro_parts")


def test_importing_evals_does_not_import_lmms_eval() -> None:
    code = "import sys, evals; sys.exit('lmms_eval' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
