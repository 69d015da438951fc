"""Finetune one candidate with one seed, and write the tables of all candidates and seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import acsearch as acsearch  # its torchvision guard, before timm and transformers
from acsearch.config.study_file import load_study
from trainers.utils.progress import silent

STUDY = "micro"
Row = dict[str, str | int | float]


def candidates() -> tuple[str, ...]:
    """The names of the micro study's candidates."""
    return load_study(STUDY).table.representations


def train(task: tuple[int, int], work: Path) -> list[Row]:
    """Score, finetune and evaluate a candidate on one core.

    Args:
        task: the seed and the candidate.
        work: the work folder.

    Returns:
        One row for each benchmark.
    """
    import torch

    from acsearch.runners.training import TrainingRunner

    torch.set_num_threads(1)
    seed, candidate = task
    config = load_study(STUDY)
    assert config.file.training is not None
    training = config.file.training.model_copy(update={"seed": seed})
    runner = TrainingRunner(replace(config, file=config.file.model_copy(update={"training": training})), work)
    scores = runner.score(candidate, silent)
    found = runner.finetune(candidate, candidate, None, silent)
    return [
        {
            "representation": training.names[candidate],
            "benchmark": name,
            "seed": seed,
            "score": score,
            "alignment": scores.alignment[0],
            "correspondence": math.nan if scores.correspondence is None else scores.correspondence,
        }
        for name, score in found.scores.items()
    ]


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write both tables.

    Args:
        rows: one for each candidate, benchmark and seed; at least two seeds.
        folder: where seeds.csv and table.csv are written.
    """
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
