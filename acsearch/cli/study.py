"""The commands of `acsearch study`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acsearch.cli.files import Force, write_files
from acsearch.cli.options import (
    EngineOption,
    Json,
    NameArgument,
    Parallel,
    Storage,
    Tracking,
    echo,
    open_study,
    print_json,
)
from acsearch.errors import StudyError
from acsearch.reporting.tracking_server import open_record
from acsearch.storage.home import Home
from trainers.errors import AcsearchError, ConfigError

if TYPE_CHECKING:
    from acsearch.config.study_file import StudyConfig
    from acsearch.study.stored import StoredStudy

app = typer.Typer(help="Search with a budget: start, resume and look at studies.", no_args_is_help=True)


@app.command()
def start(
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="A folder with a study.yaml, or a shipped name.")
    ] = "micro",
    budget: Annotated[int, typer.Option(help="Finetunes that may be started, whoever resumes.")] = 4,
    name: Annotated[str | None, typer.Option(help="Name of this run of the study; default: the study's own.")] = None,
    objective: Annotated[str | None, typer.Option(help="mean, or a benchmark; default: as the study says.")] = None,
    policy: Annotated[str | None, typer.Option(help="What proposes; default: as the study says.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: as the study says.")] = None,
    storage: Storage = None,
    tracking: Tracking = None,
    engine: EngineOption = "local",
    parallel: Parallel = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on if a study of this name exists; a larger budget counts.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, print the plan, and stop there.")] = False,
) -> None:
    """Start a study and run it until its budget is spent."""
    from acsearch.cli import progress
    from acsearch.config.study_file import load_study, update
    from acsearch.study.checks import check_free, check_start
    from acsearch.study.start import start_study
    from acsearch.study.stored import exists

    config = load_study(study)
    file = update(config.file, name=name, objective=objective, policy=policy, seed=seed)
    config = replace(config, file=file)
    check_start(file, config.table, config.prior, budget)
    if dry_run:
        _print_plan(config, budget)
        return
    home = Home(storage, tracking)
    database, claims = home.open_storage(create=True), home.claims(file.name)
    if not (resume and exists(database, file.name)):
        check_free(database, claims, file.name)
        with progress.waiting("opening the MLflow record"):
            open_record(home, file.name)  # before the study: where it fails, nothing has been started
    started = start_study(
        database,
        claims,
        name=file.name,
        config=config,
        budget=budget,
        resume=resume,
    )
    _run(home, started, engine, parallel)


@app.command()
def plan(
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="A folder with a study.yaml, or a shipped name.")
    ] = "llava15",
    budget: Annotated[int, typer.Option(help="Finetunes.")] = 4,
    as_json: Json = False,
) -> None:
    """What a study would run, and the hours, memory and disk that it takes. Needs no weights, data or network."""
    from acsearch.config.study_file import load_study
    from acsearch.study.checks import check_start

    config = load_study(study)
    check_start(config.file, config.table, config.prior, budget)
    _print_plan(config, budget, as_json=as_json)


def _print_plan(config: StudyConfig, budget: int, *, as_json: bool = False) -> None:
    from acsearch.cli import console, progress

    if config.file.training is None:
        raise ConfigError(
            f"study {config.file.name!r} looks its finetunes up in a table: nothing to plan, just start it"
        )
    with progress.waiting("building the models' shapes"):
        from acsearch.runners.plan import plan

        planned = plan(config, budget)
    if as_json:
        print_json(asdict(planned) | {"hardware": planned.hardware.model_dump()})
    else:
        console.plan(planned)


@app.command()
def resume(
    name: NameArgument,
    budget: Annotated[int | None, typer.Option(help="Raise the budget to this many finetunes.")] = None,
    engine: EngineOption = "local",
    parallel: Parallel = 1,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take over at once what others work on; they stop before they write.")
    ] = False,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Go on with a study that was interrupted, or that gets a larger budget.

    What others work on is left to them until their leases lapse, a minute after they were last heard of.
    """
    home = Home(storage, tracking)
    study = open_study(home, name, writes=True)
    study.snapshot()  # raises if the table or the prior that it was started with is not there any more
    if steal:
        study.claims.steal()
    if budget is not None:
        study.raise_budget(budget)
    _run(home, study, engine, parallel)


@app.command()
def status(name: NameArgument, storage: Storage = None, as_json: Json = False) -> None:
    """What a study is doing now."""
    from acsearch.cli import console

    home = Home(storage)
    snapshot = open_study(home, name).snapshot()
    if as_json:
        finetunes = [
            {
                "trial": record.trial,
                "representation": record.representation,
                "state": record.state,
                "owner": record.owner,
                "job": record.submission and asdict(record.submission),
                "attempts": [asdict(attempt) for attempt in record.attempts],
            }
            for record in snapshot.finetunes
        ]
        done = len(snapshot.finished)
        print_json({"name": name, "budget": snapshot.budget, "finished": done, "finetunes": finetunes})
    else:
        console.status(snapshot, home.jobs)


@app.command()
def show(name: NameArgument, storage: Storage = None, as_json: Json = False) -> None:
    """The recommendation of a study."""
    from acsearch.cli import console
    from acsearch.reporting.summary import headline, ranking

    snapshot = open_study(Home(storage), name).snapshot()
    if not as_json:
        console.summary(snapshot)
        return
    print_json(
        {
            "name": name,
            "objective": snapshot.objective,
            "unit": snapshot.unit,
            "policy": snapshot.policy,
            "prior": snapshot.prior.name,
            "seed": snapshot.seed,
            "budget": snapshot.budget,
            "recommendation": headline(snapshot),
            "candidates": ranking(snapshot),
            "finetunes": [
                {
                    "trial": record.trial,
                    "representation": record.representation,
                    "state": record.state,
                    "scores": record.points,
                    "standard_errors": record.errors,
                    "checkpoint": record.checkpoint,
                    "run": record.run,
                    "objective": None if record.objective is None else 100 * record.objective,
                    "seconds": record.seconds,
                }
                for record in snapshot.finetunes
            ],
        }
    )


@app.command("list")
def list_studies(storage: Storage = None, as_json: Json = False) -> None:
    """The studies of a storage."""
    from acsearch.cli import console
    from acsearch.study.stored import StoredStudy, summaries

    home = Home(storage)
    database = home.open_storage(create=False)
    snapshots, unreadable = [], {}
    for name in (summary.study_name for summary in summaries(database)):
        try:
            snapshots.append(StoredStudy.open(database, home.claims(name), name).snapshot())
        except AcsearchError as error:  # its table has changed, or another version wrote it
            unreadable[name] = str(error)
    if as_json:
        print_json(
            [
                *(
                    {"name": s.name, "budget": s.budget, "finished": len(s.finished), "started": s.started.isoformat()}
                    for s in snapshots
                ),
                *({"name": name, "error": error} for name, error in unreadable.items()),
            ]
        )
    else:
        console.studies(snapshots, unreadable)


@app.command()
def sync(name: NameArgument, storage: Storage = None, tracking: Tracking = None) -> None:
    """Make the MLflow record equal to the study, from the storage and the work folder, and say what has changed.

    Runs that say what is not true any more, as when an older copy of the storage was put back, are deleted (MLflow can
    restore them) and made again.
    """
    from acsearch.cli import console, progress
    from acsearch.reporting.recorder import Recorder
    from acsearch.runners.registry import make_artifacts

    home = Home(storage, tracking)
    study = open_study(home, name, writes=True)
    record = Recorder(home, study, make_artifacts(study.source, home.work, home.store))
    with progress.waiting("comparing the record"):
        record(with_figures=True, thorough=True)
    if record.missing is not None:
        raise StudyError(record.missing)
    console.synced(record.changes)
    console.where(home, study, None)


@app.command()
def report(
    name: NameArgument,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default: NAME.html in acsearch-runs/.")] = None,
    force: Force = False,
    storage: Storage = None,
) -> None:
    """Write a self-contained HTML report, in the place of an earlier report or of nothing."""
    from acsearch.reporting.report import MARKS, page

    home = Home(storage)
    snapshot = open_study(home, name).snapshot()
    file = out or home.folder / f"{name}.html"
    if out is None:
        with suppress(OSError):  # then it is not there, and that is said
            home.folder.mkdir(parents=True, exist_ok=True)
    write_files({file: page(snapshot)}, force=force, marks=MARKS)
    echo(f"wrote {file}")


def _run(home: Home, stored: StoredStudy, engine: str, parallel: int) -> None:
    """Run a study to the end of its budget, with progress, and say what came out."""
    from acsearch.cli import console, progress
    from acsearch.executors.registry import make_executor
    from acsearch.reporting.recorder import Recorder
    from acsearch.runners.registry import make_artifacts
    from acsearch.study.events import Event, Failed, Finetuned, Finetuning

    artifacts = make_artifacts(stored.source, home.work, home.store)
    executor = make_executor(engine, home, stored, parallel)
    record = Recorder(home, stored, artifacts)
    with progress.follow(stored) as show:
        record()
        console.untrue_runs(record.changes)

        def on_event(event: Event) -> None:
            show(event)
            if isinstance(event, Finetuning | Finetuned | Failed):
                record()

        try:
            executor.run(stored, on_event)
        except KeyboardInterrupt:
            echo(f"interrupted; go on with: acsearch study resume {stored.name}", err=True)
            raise
        record(with_figures=True)
        artifacts.cleanup()
    console.summary(stored.snapshot())
    console.waiting(stored.snapshot())
    console.where(home, stored, record.missing)
