"""Measure a policy on a recorded table: what it would have recommended after exactly n finetunes.

A pool is a random subset of the candidates. By default one search is run for each benchmark, with that benchmark as
the objective, and one with the mean of all (for `regret_sd`); a policy sees only the scores of candidates that it
finetunes. The quantities:

- `recall@k`: how often the truly best candidate is among the first k of the final ranking
- `finetuned`: how often it is among the n finetuned ones
- `regret`: its score minus the best score among the finetuned ones, in the benchmark's points
- `regret_sd`: the same for the mean of the scaled scores, in standard deviations over the pool

`first_hit` is the authors' own statistic: the search stops at the first n at which the three highest ranked candidates
contain the best one, which only an oracle could know. It is too optimistic, and serves only for comparison with the
published numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from joblib import Parallel, delayed

from acsearch.law.bayes import HierarchicalLaw, Posterior, objective_weights
from acsearch.law.features import Array, Features, Index
from acsearch.law.prior import Prior
from acsearch.policies.base import Policy, State
from acsearch.policies.registry import make_policy
from acsearch.tables.table import Table
from trainers.errors import ConfigError


@dataclass(frozen=True)
class Estimate:
    """A mean over pools with its standard error.

    Attributes:
        value: The mean.
        error: The standard error of the mean, NaN with a single pool.
    """

    value: float
    error: float

    @classmethod
    def of(cls, samples: Sequence[float] | Array) -> Estimate:
        """The mean of the samples and its standard error."""
        values = np.asarray(samples, dtype=float)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), float(error))


@dataclass(frozen=True)
class Replay:
    """Results of one policy.

    Attributes:
        table: Name of the table.
        policy: Name of the policy.
        budget: Finetunes of each search.
        subset: Candidates of each pool.
        repeats: Number of pools.
        benchmarks: By benchmark, then by quantity (see above), in points of the benchmark.
        mean: By quantity, averaged over the benchmarks.
    """

    table: str
    policy: str
    budget: int
    subset: int
    repeats: int
    benchmarks: dict[str, dict[str, Estimate]]
    mean: dict[str, Estimate]


@dataclass(eq=False)
class _FitCache:
    """Caches the fits of one pool, because searches for different objectives meet the same sets of candidates."""

    law: HierarchicalLaw
    fits: dict[tuple[int, ...], Posterior] = field(default_factory=dict)

    def fit(self, features: Features, observed: Index, scores: Array) -> Posterior:
        key = tuple(int(row) for row in observed)
        if key not in self.fits:
            self.fits[key] = self.law.fit(features, observed, scores)
        return self.fits[key]


def replay(
    table: Table,
    policies: Sequence[str],
    prior: Prior,
    *,
    budget: int,
    subset: int | None = None,
    repeats: int = 300,
    seed: int = 0,
    first_hit: bool = False,
    jobs: int = 2,
) -> list[Replay]:
    """Replay several policies on the same random pools of a recorded table.

    Args:
        table: The recorded table.
        policies: Names of the policies.
        prior: The prior of the Bayesian law.
        budget: Finetunes of each search.
        subset: Candidates of each pool; default: all of the table.
        repeats: Number of pools.
        seed: Seed of the pools and searches.
        first_hit: Compute the authors' statistic instead of the exact one.
        jobs: Number of processes.

    Returns:
        One result for each policy, in the same order.

    Raises:
        ConfigError: the subset is not within the table, the budget not within the subset, or a policy is unknown.
        DefinitionError: the prior belongs to other definitions of A or C than the table's.
    """
    size = len(table.representations) if subset is None else subset
    if not 2 <= size <= len(table.representations):
        raise ConfigError(
            f"--subset {size}: the table has {len(table.representations)} candidates, a pool needs 2 or more"
        )
    if not 1 <= budget <= size:
        raise ConfigError(f"--budget {budget}: must be between 1 and the {size} candidates of a pool")
    prior.check(table.metadata)
    for name in policies:
        make_policy(name, prior, truth=table.scaled)
    pools = [np.random.SeedSequence([seed, repeat]) for repeat in range(repeats)]
    chunks = np.array_split(np.arange(repeats), max(1, min(repeats, 4 * jobs)))
    run = delayed(_first_hits if first_hit else _exact)
    work = (run(table, policies, prior, [pools[i] for i in chunk], size, budget) for chunk in chunks if len(chunk))
    rows = [row for chunk in Parallel(n_jobs=jobs if repeats >= 20 else 1)(work) for row in chunk]
    return [_summary(table, name, rows, index, budget, size, repeats) for index, name in enumerate(policies)]


Row = list[dict[str, Array]]  # per policy: quantity -> (M,), or () for `regret_sd`, which is of all benchmarks


def _exact(
    table: Table, policies: Sequence[str], prior: Prior, pools: Iterable[np.random.SeedSequence], size: int, budget: int
) -> list[Row]:
    return [
        [_judge(pool, features, policy, budget, seed) for policy in made]
        for pool, features, made, seed in _set_up(table, policies, prior, pools, size)
    ]


def _set_up(
    table: Table, policies: Sequence[str], prior: Prior, pools: Iterable[np.random.SeedSequence], size: int
) -> Iterable[tuple[Table, Features, list[Policy], int]]:
    for sequence in pools:
        rng = np.random.default_rng(sequence)
        pool = table.subset(np.sort(rng.choice(len(table.representations), size, replace=False)))
        cache = _FitCache(HierarchicalLaw(prior))
        made = [make_policy(name, prior, truth=pool.scaled, fit=cache.fit) for name in policies]
        yield pool, Features.of(pool), made, int(rng.integers(2**31))


def _judge(pool: Table, features: Features, policy: Policy, budget: int, seed: int) -> dict[str, Array]:
    quantities = ("recall@1", "recall@3", "finetuned", "regret")
    result = {quantity: np.zeros(len(pool.benchmarks)) for quantity in quantities}
    for b, benchmark in enumerate(pool.benchmarks):
        state = _search(pool, features, policy, objective_weights(pool.benchmarks, benchmark), budget, seed + b)
        order = policy.rank(state, seed + b)
        truth = pool.scores[:, b]
        best = truth.argmax()
        result["recall@1"][b] = order[0] == best
        result["recall@3"][b] = best in order[:3]
        result["finetuned"][b] = best in state.observed
        result["regret"][b] = truth[best] - truth[state.observed].max()
    weights = objective_weights(pool.benchmarks, "mean")
    state = _search(pool, features, policy, weights, budget, seed + len(pool.benchmarks))
    truth = pool.scaled @ weights
    result["regret_sd"] = np.array((truth.max() - truth[state.observed].max()) / truth.std())
    return result


def _search(pool: Table, features: Features, policy: Policy, weights: Array, budget: int, seed: int) -> State:
    state = _state(pool, features, weights, ())
    for step in range(budget):
        chosen = policy.propose(state, seed * 1009 + step)
        state = _state(pool, features, weights, (*state.observed, chosen))
    return state


def _state(pool: Table, features: Features, weights: Array, finetuned: Iterable[int]) -> State:
    observed = np.array(sorted(finetuned), dtype=np.intp)
    none = np.empty(0, dtype=np.intp)
    return State(features, weights, observed, pool.scaled[observed], none, none)


def _first_hits(
    table: Table, policies: Sequence[str], prior: Prior, pools: Iterable[np.random.SeedSequence], size: int, budget: int
) -> list[Row]:
    """Finetunes until the top three first contained the best, and whether that was within the budget."""
    rows: list[Row] = []
    for pool, features, made, seed in _set_up(table, policies, prior, pools, size):
        row: Row = []
        for policy in made:
            hits = np.zeros(len(pool.benchmarks))
            for b, benchmark in enumerate(pool.benchmarks):
                state = _state(pool, features, objective_weights(pool.benchmarks, benchmark), ())
                best = pool.scores[:, b].argmax()
                for n in range(1, size + 1):
                    chosen = policy.propose(state, (seed + b) * 1009 + n)
                    state = _state(pool, features, state.weights, (*state.observed, chosen))
                    top = policy.rank(state, seed + b)[: 3 if n > 1 else 1]
                    if best in top:
                        break
                hits[b] = n
            row.append({"first_hit": hits, "within_budget": (hits <= budget).astype(float)})
        rows.append(row)
    return rows


def _summary(table: Table, policy: str, rows: list[Row], index: int, budget: int, size: int, repeats: int) -> Replay:
    results = [row[index] for row in rows]
    benchmarks: dict[str, dict[str, Estimate]] = {name: {} for name in table.benchmarks}
    mean: dict[str, Estimate] = {}
    for quantity in results[0]:
        samples = np.array([result[quantity] for result in results])  # (repeats, M) or (repeats,)
        if samples.ndim == 1:
            mean[quantity] = Estimate.of(samples)
            continue
        mean[quantity] = Estimate.of(samples.mean(axis=1))
        for b, name in enumerate(table.benchmarks):
            benchmarks[name][quantity] = Estimate.of(samples[:, b])
    return Replay(table.name, policy, budget, size, repeats, benchmarks, mean)
