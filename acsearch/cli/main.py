"""The command line. No heavy import is at the top, because `acsearch --help` must answer at once."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from acsearch.cli import bundle, data, doctor, export, law, score, study, trial
from acsearch.cli.failures import explain
from acsearch.redaction import guard, without_secrets
from trainers.errors import AcsearchError, PreemptedError

app = typer.Typer(
    help="Find the vision representation a multimodal LLM should use, finetuning only a few of the candidates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, because rich takes longer than everything else
    add_completion=False,
)
app.add_typer(law.app, name="law")
app.add_typer(study.app, name="study")
study.app.add_typer(bundle.app)
app.add_typer(trial.app, name="trial")
app.add_typer(data.app, name="data")
app.add_typer(score.app, name="score")
app.command()(doctor.doctor)
app.command()(export.export)
app.command()(law.replay)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the tracebacks of errors.")] = False) -> None:
    """Options before the command; `--debug` is read by `main`."""


@app.command("eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate(context: typer.Context) -> None:
    """Run lmms-eval's command line; trained checkpoints are --model acsearch --model_args checkpoint=FOLDER."""
    from evals.command import lmms_eval

    lmms_eval(context.args)


def main() -> None:
    """Run the command line.

    An `AcsearchError` is printed as one line and gives exit code 1, and so is a failure of a disk or a database; with
    `--debug` the traceback is shown. Work that stopped because it was asked to gives exit code 75; see
    `trainers.ranks.preemption`.
    """
    guard()
    try:
        app()
    except AcsearchError as error:
        if "--debug" in sys.argv:
            raise
        _exit(str(error), 75 if isinstance(error, PreemptedError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv or (said := explain(error)) is None:
            raise
        _exit(said)


def _exit(said: str, code: int = 1) -> NoReturn:
    """End with an error of one line, out of which secrets are taken before it is cut to its length."""
    typer.echo(f"error: {AcsearchError(without_secrets(said)).line}", err=True)
    sys.exit(code)
