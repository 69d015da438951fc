"""The command line. Imports nothing heavy at the top: `acsearch --help` must answer at once."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from acsearch.cli import bundle as cli_bundle
from acsearch.cli import data as cli_data
from acsearch.cli import doctor as cli_doctor
from acsearch.cli import score as cli_score
from acsearch.cli import study as cli_study
from acsearch.cli import trial as cli_trial
from acsearch.errors import AcsearchError, ConfigError, PreemptedError
from acsearch.redaction import guard, without_secrets

app = typer.Typer(
    help="Find the vision representation a multimodal LLM should use, finetuning only a few of the candidates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it with rich takes longer than all the rest
    add_completion=False,
)
law = typer.Typer(help="Fit the AC law to a recorded table.", no_args_is_help=True)
app.add_typer(law, name="law")
app.add_typer(cli_study.app, name="study")
cli_study.app.add_typer(cli_bundle.app)
app.add_typer(cli_trial.app, name="trial")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_score.app, name="score")
app.command()(cli_doctor.doctor)

TableArgument = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="A CSV file, a folder with a table.csv, or a shipped name such as law_v1."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriorOption = Annotated[str, typer.Option(help="Prior of the Bayesian law: a shipped name or a YAML file.")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Options before the command; `--debug` is read by `main`."""


@law.command("fit")
def law_fit(
    table: TableArgument,
    surrogate: Annotated[
        str, typer.Option(help="bayes (hierarchical, the default) or published (least squares).")
    ] = "",
    terms: Annotated[
        str, typer.Option(help="Of the published law: full, or some of A, C, A2, AC, C2 joined by +.")
    ] = "",
    prior: PriorOption = "weak",
    weights: Annotated[bool, typer.Option("--weights", help="Show the weights with their intervals too.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise features.")] = 0,
    as_json: Json = False,
) -> None:
    """Diagnose the law on a table: R² in sample, adjusted, left-out and on noise, and interval coverage."""
    from acsearch.cli import console
    from acsearch.config.study_file import load_prior, load_table
    from acsearch.law.diagnostics import diagnose
    from acsearch.law.registry import make_surrogate

    name = surrogate or ("published" if terms else "bayes")
    read = load_table(table)
    result = diagnose(read, name, make_surrogate(name, read, load_prior(prior), terms), seed=seed)
    if not as_json:
        console.law_fit(read, result, weights=weights)
        return
    names = list(result.mean)
    _print_json(
        {
            "table": result.table,
            "surrogate": result.surrogate,
            "terms": result.term_weights,
            "benchmarks": {
                name: {key: getattr(fit, key) for key in names}
                | {
                    "weights": {
                        term: {"estimate": i.estimate, "low_80": i.low, "high_80": i.high}
                        for term, i in fit.weights.items()
                    },
                    "residuals": fit.residuals,
                }
                for name, fit in result.benchmarks.items()
            },
            "mean": result.mean,
        }
    )


@law.command("prior")
def law_prior(
    table: TableArgument,
    out: Annotated[Path, typer.Option(help="YAML file to write.")],
    inflate: Annotated[
        float, typer.Option(min=1, help="Factor on the variance: how far other studies may differ.")
    ] = 2.0,
) -> None:
    """Learn a prior from a recorded table, for studies that measure A and C by the same definitions."""
    from acsearch.config.study_file import load_prior, load_table, write_prior
    from acsearch.law.bayes import HierarchicalLaw
    from acsearch.law.least_squares import Features

    read, weak = load_table(table), load_prior("weak")
    if read.sheet.alignment == "unstated":
        raise ConfigError(
            f"{read.name}: no sheet says which definition of A this is, so no prior can be learnt from it"
        )
    import numpy as np

    posterior = HierarchicalLaw(weak).fit(Features.of(read), np.arange(len(read.scores)), read.scaled)
    write_prior(out, posterior.learnt_prior(weak, read.sheet, inflate))
    typer.echo(f"wrote {out}")


@app.command()
def replay(
    table: TableArgument,
    policy: Annotated[str, typer.Option(help="A policy, several joined by commas, or all.")] = "default",
    budget: Annotated[int, typer.Option(help="Finetunes of every search.")] = 4,
    subset: Annotated[
        int | None, typer.Option(help="Candidates of each random pool; default: all of the table.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100_000, help="Random pools.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    prior: PriorOption = "weak",
    statistic: Annotated[
        str, typer.Option(help="exact: after exactly --budget finetunes; first-hit: as the authors.")
    ] = "exact",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure a policy on a recorded table, beside random, top-A, A+C, the published policy and the oracle."""
    from acsearch.cli import console
    from acsearch.config.study_file import load_prior, load_table
    from acsearch.policies.registry import POLICIES, resolve
    from acsearch.policies.replay import replay as run

    if statistic not in ("exact", "first-hit"):
        raise ConfigError(f"--statistic {statistic!r}: choose exact or first-hit")
    asked = list(POLICIES) if policy == "all" else [resolve(one) for one in policy.split(",")]
    beside = [] if as_json or policy == "all" else ["random", "top-a", "a+c", "published", "oracle"]
    names = list(dict.fromkeys([*asked, *beside]))
    read = load_table(table)
    results = run(
        read,
        names,
        load_prior(prior),
        budget=budget,
        subset=subset,
        repeats=repeats,
        seed=seed,
        first_hit=statistic == "first-hit",
        jobs=jobs,
    )
    if not as_json:
        console.replay(read, results, first_hit=statistic == "first-hit")
        return
    sheets: list[dict[str, Any]] = [
        {
            "table": result.table,
            "policy": result.policy,
            "budget": result.budget,
            "subset": result.subset,
            "repeats": result.repeats,
            "statistic": statistic,
            "benchmarks": {
                name: {key: estimate.value for key, estimate in row.items()} for name, row in result.benchmarks.items()
            },
            "mean": {key: estimate.value for key, estimate in result.mean.items()},
            "standard_error": {key: estimate.error for key, estimate in result.mean.items()},
        }
        for result in results
    ]
    _print_json(sheets[0] if len(sheets) == 1 and policy != "all" else sheets)


@app.command("eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate(context: typer.Context) -> None:
    """lmms-eval's own command line, with trained checkpoints as --model acsearch --model_args checkpoint=FOLDER."""
    from evals.command import lmms_eval

    lmms_eval(context.args)


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(finite(data), indent=2))


def finite(data: Any) -> Any:
    """The same with NaN, which JSON does not have, as null."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def main() -> None:
    """Entry point: an error that acsearch knows is one line and exit code 1; `--debug` shows its traceback.

    Exit code 75 is that of work that stopped as it was asked to; see `trainers.training.preemption`.
    """
    guard()
    try:
        app()
    except AcsearchError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {without_secrets(error.line)}", err=True)
        sys.exit(75 if isinstance(error, PreemptedError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
