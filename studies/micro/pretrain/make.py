"""Make one model: train it, store it, measure what was stored, and write its card."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from studies.micro.pretrain import card, registry
from studies.micro.pretrain.corpus import load_corpus
from studies.micro.pretrain.llm.language_model import answering, train_llm
from studies.micro.pretrain.objectives import OBJECTIVES
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.optimise import Schedule, optimise, rows, seeded
from studies.micro.pretrain.probe import probe, through_adapter
from studies.micro.pretrain.recipes import ENCODERS, LANGUAGE, PATCH, PROBE_SPLIT, PROBES, SPLIT, LanguageRecipe, Recipe
from studies.micro.pretrain.vit import from_seed, resample_positions, store
from trainers.utils.progress import Reporter

_ANSWERED = 200  # scenes of the LLM's test


def names() -> list[str]:
    """Folders of all models, in an order in which none starts from a later one."""
    return [LANGUAGE.folder, *(recipe.folder for recipe in ENCODERS)]


def scaled(count: int, scale: float, least: int) -> int:
    """A share of a count, but at least `least`; 0 stays 0."""
    return max(least, round(count * scale)) if count else 0


def corpus_size(scale: float) -> tuple[int, int]:
    """How many scenes to render for pretraining and for probes."""
    return scaled(max(recipe.images for recipe in ENCODERS), scale, 32), scaled(PROBES, scale, 64)


def _print(line: str) -> None:
    print(line, flush=True)


def make(name: str, out: Path, cache: Path, scale: float = 1.0, report: Reporter = _print) -> None:
    """Make a model and store it in `out/name`.

    Args:
        name: the model's folder.
        out: the folder of all models.
        cache: where `corpus.render` wrote the images.
        scale: share of the steps and images; below 1 for trials alone.
        report: is called with how training goes.
    """
    torch.set_num_threads(1)  # more would change the sums' order, and with it the bytes
    started = time.monotonic()

    def timed_report(line: str) -> None:
        report(f"{time.monotonic() - started:4.0f} s  {name}: {line}")

    if name == LANGUAGE.folder:
        _language(replace(LANGUAGE, steps=scaled(LANGUAGE.steps, scale, 3)), out, scale, timed_report)
        return
    recipe = next(recipe for recipe in ENCODERS if recipe.folder == name)
    recipe = replace(recipe, steps=scaled(recipe.steps, scale, 3), images=scaled(recipe.images, scale, 32))
    _, unseen = corpus_size(scale)
    objective, final = _train(recipe, out, cache, timed_report)
    seconds = time.monotonic() - started
    measured = final | objective.measures(load_corpus(cache, PROBE_SPLIT, recipe.size, unseen))
    description = objective.description
    store(objective.encoder, out / name)
    declared = out / name / "encoders.yaml"
    registry.write_rows(declared, "..")
    try:
        encode = through_adapter(declared, recipe.name, recipe.size)
        measured |= probe(encode, load_corpus(cache, PROBE_SPLIT, recipe.size, unseen), recipe.size)
    finally:
        declared.unlink()
    card.write_encoder(out / name, recipe, description, seconds, measured)
    timed_report(", ".join(f"{key} {value:.2f}" for key, value in measured.items()))


def _train(recipe: Recipe, out: Path, cache: Path, report: Reporter) -> tuple[Objective, dict[str, float]]:
    """The trained objective, and its loss at the end."""
    kind = OBJECTIVES[recipe.objective]
    corpus = load_corpus(cache, SPLIT, kind.image_size(recipe.size), max(recipe.images, 1))
    objective = from_seed(recipe.seed, lambda: kind(recipe.size, corpus))
    if recipe.start is not None:
        _start(objective, out / recipe.start, recipe.size)
    if not recipe.steps:
        return objective.eval(), {}

    def loss(step: int) -> torch.Tensor:
        chosen = rows(len(corpus), recipe.batch, step, recipe.seed)
        return objective.loss(chosen, corpus, seeded(recipe.seed, step), step / recipe.steps)

    def after(step: int) -> None:
        objective.after_step(step / recipe.steps)

    schedule = Schedule(recipe.steps, recipe.lr, recipe.warmup, recipe.weight_decay, recipe.adam)
    last = optimise(objective, loss, schedule, after=after, report=report)
    return objective, {"training loss at the end": last}


def _start(objective: Objective, folder: Path, size: int) -> None:
    """Fill the encoder with stored weights, its position table resampled to the size's grid."""
    weights = load_file(folder / "model.safetensors")
    table = next(key for key in weights if key.endswith("position_embedding.weight"))
    weights[table] = resample_positions(weights[table].float(), size // PATCH)
    objective.encoder.load_state_dict(weights)


def _language(recipe: LanguageRecipe, out: Path, scale: float, report: Reporter) -> None:
    started = time.monotonic()
    folder = out / recipe.folder
    final = train_llm(recipe, folder, report)
    seconds = time.monotonic() - started
    answers = answering(folder, scaled(_ANSWERED, scale, 4))
    card.write_llm(folder, recipe, seconds, final, answers)
    report(", ".join(f"{key} {value:.2f}" for key, value in answers.items()))
