"""Finetune one candidate with one seed, and write the tables of many."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import acsearch as acsearch  # its torchvision guard, before timm and transformers
from acsearch.config.study_file import load_study

STUDY = "micro"
Row = dict[str, str | int | float]


def candidates() -> tuple[str, ...]:
    return load_study(STUDY).table.representations


def train(task: tuple[int, int], work: Path) -> list[Row]:
    """Score, finetune and evaluate a candidate, (seed, candidate), on one core."""
    import torch

    from acsearch.runners.training import TrainingRunner

    torch.set_num_threads(1)
    seed, candidate = task
    config = load_study(STUDY)
    assert config.file.training is not None
    recipe = config.file.training.model_copy(update={"seed": seed})
    pipeline = TrainingRunner(replace(config, file=config.file.model_copy(update={"training": recipe})), work)
    scores = pipeline.score(candidate, _quietly)
    found = pipeline.finetune(candidate, candidate, None, _quietly)
    return [
        {
            "representation": recipe.names[candidate],
            "benchmark": name,
            "seed": seed,
            "score": score,
            "alignment": scores.alignment[0],
            "correspondence": math.nan if scores.correspondence is None else scores.correspondence,
        }
        for name, score in found.scores.items()
    ]


def _quietly(text: str) -> None:
    """Nobody reads the progress of two candidates at once."""


def write(rows: Sequence[Row], folder: Path) -> None:
    """Both tables. rows: one per candidate, benchmark and seed; at least two seeds."""
    cells: dict[tuple[str, str], list[Row]] = {}
    alignment: dict[str, list[float]] = {}
    for row in rows:
        cells.setdefault((str(row["representation"]), str(row["benchmark"])), []).append(row)
        alignment.setdefault(str(row["representation"]), []).append(float(row["alignment"]))
    means: list[Row] = []
    for (representation, benchmark), seeds in cells.items():
        scores = [float(row["score"]) for row in seeds]
        means.append(
            {
                "representation": representation,
                "benchmark": benchmark,
                "score": round(fmean(scores), 3),
                "alignment": round(fmean(alignment[representation]), 5),
                "correspondence": round(float(seeds[0]["correspondence"]), 4),
                "standard_error": round(stdev(scores) / math.sqrt(len(scores)), 3),
            }
        )
    for name, lines in (("seeds.csv", list(rows)), ("table.csv", means)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
