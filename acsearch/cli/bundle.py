"""`acsearch study export` and `acsearch study import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acsearch.cli.options import NameArgument, Storage, echo
from acsearch.storage.home import Home

app = typer.Typer()
File = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle, for instance bundle.tar.zst.")]


@app.command("export")
def export(
    name: NameArgument,
    file: File,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Include trained weights and the last checkpoint of unfinished training."),
    ] = False,
    storage: Storage = None,
) -> None:
    """Write a study into one file, for a cluster without a common network: trials, scores, logs and evaluations."""
    from acsearch.bundles.transfer import export_study
    from acsearch.cli import progress

    with progress.waiting("gathering the study's files"):
        done = export_study(Home(storage), name, file, checkpoints=checkpoints)
    trials = [trial for trial in done.study.trials if trial.counts]
    complete = sum(trial.state == "COMPLETE" for trial in trials)
    echo(
        f"wrote {file}: {complete} of {done.study.budget} finetunes, {done.files} files of the work folder, "
        f"{file.stat().st_size / 1e6:.1f} MB"
    )
    for trial in trials:
        if trial.state == "RUNNING":
            advice = (
                "a process here is working on it: stop that first"
                if trial.number in done.in_progress
                else "do not resume it here"
            )
            echo(
                f"finetune {trial.number + 1} is unfinished: whoever imports the file continues it, so {advice}, or it "
                f"is done twice"
            )


@app.command("import")
def import_(
    file: File,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY", help="The folder of the study here, if it is not at the path that it was exported from."
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Allow this many finetunes, when two copies of a study together did more than the budget of either.",
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Add a study from a file, or merge it into the copy that is here. A second import changes nothing."""
    from acsearch.bundles.transfer import import_study
    from acsearch.cli import progress

    with progress.waiting("checking and reading the bundle"):
        done = import_study(Home(storage), file, study=study, budget=budget or 0)
    if not done.changes and not done.files:
        echo(f"study {done.name}: everything in {file} is here already")
        return
    counted = {
        "finetunes added": len(done.changes.add),
        "brought up to date": len(done.changes.finish),
        "candidates' scores": done.changes.scores,
        "files": done.files,
    }
    what = ", ".join(f"{number} {kind}" for kind, number in counted.items() if number) or "its settings"
    echo(f"study {done.name}: {what}; go on with: acsearch study resume {done.name}")
