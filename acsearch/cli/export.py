"""The command `acsearch export`: a finetuned model for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from acsearch.cli.options import Storage, echo, open_study
from acsearch.storage.home import Home
from trainers.errors import ConfigError

if TYPE_CHECKING:
    from trainers.export.write import About


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a trained model; or, with TRIAL, a study.")],
    trial: Annotated[
        int | None, typer.Argument(min=0, metavar="TRIAL", help="Number of the study's finetune, from 0.")
    ] = None,
    to: Annotated[Literal["hf"], typer.Option(help="hf: LlavaForConditionalGeneration of transformers.")] = "hf",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: MODEL-TRIAL-hf, here.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that has files of others.")] = False,
    storage: Storage = None,
) -> None:
    """Write a finetuned model so that plain transformers loads it and gives the same answers.

    That is possible for one encoder (CLIP, SigLIP, DINOv2) with the connector mlp2x; of anything else it is said what
    stands in the way. LoRA is merged into the weights.
    """
    from acsearch.cli import progress

    folder, about, name = _of_folder(Path(model)) if trial is None else _of_trial(Home(storage), model, trial)
    target = out or Path(f"{name}-hf")
    with progress.waiting("exporting"):
        from trainers.export.write import export as write

        remarks = write(folder, target, about, dtype=dtype, force=force)
    for remark in remarks:
        echo(remark)
    echo(f"wrote {target}")


def _of_folder(folder: Path) -> tuple[Path, About, str]:
    from trainers.export.write import About

    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; give that of a trained model, or a study and the number of a trial"
        )
    return folder, About("trained with acsearch"), folder.parent.name if folder.name == "result" else folder.name


def _of_trial(home: Home, name: str, trial: int) -> tuple[Path, About, str]:
    """The model of a study's finetune, from here or the work store, and its scores."""
    from acsearch.runners.registry import make_artifacts
    from trainers.export.write import About

    study = open_study(home, name)
    found = next((one for one in study.snapshot().finetunes if one.trial == trial), None)
    if found is None or found.state != "complete" or found.candidate is None:
        state = "there is no such trial" if found is None else f"it is {found.state}"
        raise ConfigError(f"study {name!r}, trial {trial}: no finetuned model: {state}")
    folder = make_artifacts(study.source, home.work, home.store).model(found.candidate)
    if folder is None:
        raise ConfigError(f"study {name!r}, trial {trial}: its model is neither here nor in the work store")
    scores = {
        benchmark: f"{points:.2f}" + (f" ± {error:.2f}" if (error := found.errors.get(benchmark)) is not None else "")
        for benchmark, points in found.points.items()
    }
    return folder, About(f"trial {trial} of the study {name}, trained with acsearch", scores), f"{name}-{trial}"
