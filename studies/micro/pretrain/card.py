"""The models' cards, README.md beside the weights. The run that made a model measured every figure in its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from studies.micro.pretrain.corpus import label_sets
from studies.micro.pretrain.llm.language_model import KINDS_OF_TEXT
from studies.micro.pretrain.recipes import (
    DEPTH,
    HEADS,
    MLP,
    NOISE_LEVEL,
    PATCH,
    PROBES,
    SPLIT,
    WIDTH,
    WORLD_SEED,
    LanguageRecipe,
    Recipe,
)
from studies.micro.world import WORLD_VERSION

_WORLD = f"the small world (version {WORLD_VERSION}, seed {WORLD_SEED}, split {SPLIT})"
_LICENCE = "MIT, as the rest of acsearch; trained on the small world's own images and texts, nothing else."


def write_encoder(
    folder: Path, recipe: Recipe, description: str, seconds: float, measured: Mapping[str, float]
) -> None:
    """Write the card of an encoder.

    Args:
        folder: of the model.
        recipe: how it was made.
        description: one sentence on its objective.
        seconds: that training took.
        measured: figures by name.
    """
    side = recipe.size // PATCH
    rows = {
        "Network": f"ViT, width {WIDTH}, depth {DEPTH}, {HEADS} heads, MLP {MLP}, patch {PATCH}, "
        f"{side} x {side} tokens at {recipe.size} px, stored in float16",
        "Objective": description.format(labels=", ".join(label_sets())),
        "Data": f"{recipe.images} scenes of {_WORLD}" if recipe.steps else "none",
        "Training": f"{recipe.steps} steps of {recipe.batch} images, Muon and AdamW, learning rate {recipe.lr:g}, "
        f"{seconds:.0f} s on one CPU core"
        if recipe.steps
        else "none",
        "Seed": str(recipe.seed),
    }
    if recipe.start:
        rows["Starts from"] = recipe.start
    if recipe.objective == "denoiser":
        rows["Features"] = f"of an image with noise: sqrt(1 - {NOISE_LEVEL:g}²) x + {NOISE_LEVEL:g} noise"
    notes = (
        f"Measured on up to {PROBES} scenes that it was not trained on, with the stored weights and the layer that "
        "the study uses. Linear probes are ridge regressions on features averaged to 4 x 4 cells, scored by the area "
        "under the ROC curve, 0.5 by chance. PCK is of nearest patches between creatures of a species."
    )
    _write(folder, recipe.folder, rows, measured, notes)


def write_llm(
    folder: Path, recipe: LanguageRecipe, seconds: float, final: Mapping[str, float], answers: Mapping[str, float]
) -> None:
    """Write the card of the language model.

    Args:
        folder: of the model.
        recipe: how it was made.
        seconds: that training took.
        final: figures of the training, by name.
        answers: share of right answers by kind of question.
    """
    rows = {
        "Network": f"Llama, width {recipe.width}, depth {recipe.depth}, {recipe.heads} heads, MLP {recipe.mlp}, tied "
        f"embeddings, {recipe.positions} positions, one token a word, stored in float16",
        "Objective": f"next word; {KINDS_OF_TEXT}; some heads start as ones that look back or for their like",
        "Data": f"texts of {_WORLD}, each scene once",
        "Training": f"{recipe.steps} steps of {recipe.batch} sequences, Muon and AdamW, learning rate "
        f"{recipe.lr:g}, {seconds:.0f} s on one CPU core",
        "Seed": str(recipe.seed),
    }
    notes = (
        "Answers are to questions on scenes that it was not trained on, from the words of their cells, with the "
        "stored weights. Cells leave out what is not in any one of them, such as how many things there are."
    )
    told = {f"answers right, {kind}": share for kind, share in answers.items()}
    _write(folder, recipe.folder, rows, {**final, **told}, notes)


def _write(folder: Path, name: str, rows: Mapping[str, str], measured: Mapping[str, float], notes: str) -> None:
    lines = [f"# {name}", "", "Made by `python -m studies.micro.pretrain`.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", "| Measured | |", "|---|---|"]
    lines += [f"| {key} | {value:.3f} |" for key, value in measured.items()]
    lines += ["", notes, "", f"Licence: {_LICENCE}", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
