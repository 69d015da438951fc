"""The micro study's truth table: what its seeds say, and as rich as the study."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from acsearch.config.study_file import load_study
from acsearch.config.table_file import load_table
from studies.micro.truth.table import write
from support import ROOT

TRUTH = ROOT / "studies" / "micro" / "truth"


def test_the_table_is_what_the_seeds_say(tmp_path: Path) -> None:
    with (TRUTH / "seeds.csv").open(newline="") as file:
        rows: list[dict[str, str | int | float]] = list(csv.DictReader(file))  # type: ignore[arg-type]
    write(rows, tmp_path)
    for name in ("seeds.csv", "table.csv"):
        assert (tmp_path / name).read_text() == (TRUTH / name).read_text()
    assert len({row["seed"] for row in rows}) >= 3


def test_every_candidate_of_the_study_is_in_it() -> None:
    table, study = load_table("micro/truth"), load_study("micro")
    assert table.representations == study.table.representations
    assert table.metadata.benchmarks == study.table.metadata.benchmarks
    assert len(table.representations) >= 13
    assert len(table.benchmarks) >= 5
    assert table.has_correspondence
    assert (table.errors > 0).mean() > 0.9
    assert np.nanmax(table.errors) < 10
