"""The commands of `acsearch law`, and `acsearch replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from acsearch.cli.files import Force, write_files
from acsearch.cli.options import Json, echo, print_json
from trainers.errors import ConfigError

app = typer.Typer(help="Fit the AC law to a recorded table.", no_args_is_help=True)

TableArgument = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="A CSV file, a folder with a table.csv, or a shipped name such as law_v1."),
]

PriorOption = Annotated[str, typer.Option(help="Prior of the Bayesian law: the name of a shipped one, or a YAML file.")]


@app.command()
def fit(
    table: TableArgument,
    surrogate: Annotated[
        str, typer.Option(help="Form of the law: bayes (hierarchical, the default) or published (least squares).")
    ] = "",
    terms: Annotated[
        str, typer.Option(help="Terms of the published law: full, or some of A, C, A2, AC, C2 joined by +.")
    ] = "",
    prior: PriorOption = "weak",
    weights: Annotated[bool, typer.Option("--weights", help="Also show the weights with their intervals.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise features.")] = 0,
    as_json: Json = False,
) -> None:
    """Diagnose the law on a table: R² in sample, adjusted, leave-one-out and on noise, and interval coverage."""
    from acsearch.cli import console
    from acsearch.config.prior_file import load_prior
    from acsearch.config.table_file import load_table
    from acsearch.law.diagnostics import diagnose
    from acsearch.law.registry import make_surrogate

    name = surrogate or ("published" if terms else "bayes")
    read = load_table(table)
    result = diagnose(read, name, make_surrogate(name, read, load_prior(prior), terms), seed=seed)
    if not as_json:
        console.law_fit(read, result, weights=weights)
        return
    names = list(result.mean)
    print_json(
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


@app.command("prior")
def learn_prior(
    table: TableArgument,
    out: Annotated[Path, typer.Option(help="The YAML file to write.")],
    inflate: Annotated[
        float, typer.Option(min=1, help="Factor on the variance of the weights, because other studies may differ.")
    ] = 2.0,
    force: Force = False,
) -> None:
    """Learn a prior from a recorded table, for studies that measure A and C by the same definitions."""
    from acsearch.config.prior_file import load_prior, prior_text
    from acsearch.config.table_file import load_table
    from acsearch.law.bayes import HierarchicalLaw
    from acsearch.law.features import Features

    read, weak = load_table(table), load_prior("weak")
    if read.metadata.alignment == "unstated":
        raise ConfigError(
            f"{read.name}: no metadata says which definition of A this is, so no prior can be learnt from it"
        )
    import numpy as np

    posterior = HierarchicalLaw(weak).fit(Features.of(read), np.arange(len(read.scores)), read.scaled)
    write_files({out: prior_text(posterior.learnt_prior(weak, read.metadata, inflate))}, force=force)
    echo(f"wrote {out}")


def replay(
    table: TableArgument,
    policy: Annotated[str, typer.Option(help="A policy, several policies joined by commas, or all.")] = "default",
    budget: Annotated[int, typer.Option(help="Number of finetunes of each search.")] = 4,
    subset: Annotated[
        int | None, typer.Option(help="Number of candidates of each random pool; default: all of the table.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100_000, help="Number of random pools.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pools and searches.")] = 0,
    prior: PriorOption = "weak",
    statistic: Annotated[
        str,
        typer.Option(help="exact: after exactly --budget finetunes; first-hit: the authors' statistic."),
    ] = "exact",
    jobs: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure a policy on a recorded table, beside random, top-A, A+C, the published policy and the oracle."""
    from acsearch.cli import console
    from acsearch.config.prior_file import load_prior
    from acsearch.config.table_file import load_table
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
    summaries: list[dict[str, Any]] = [
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
    print_json(summaries[0] if len(summaries) == 1 and policy != "all" else summaries)
