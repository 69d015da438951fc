"""Policies: which candidate to finetune next, and how to rank all of them afterwards. One registry, `POLICIES`.

The default is `ucb`: the Bayesian law with its upper confidence bound. At four finetunes with the prior `weak`, one
search per benchmark, 300 random pools each (`acsearch replay TABLE --policy all --budget 4 --subset ...`):

DEFAULT_NUMBERS

`recall@3` is whether the truly best candidate is among the first three of the ranking; a rule can only rank what it
has finetuned, the law also names candidates that it has not. Regret is what the best finetuned model lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from acsearch.acquire import (
    Acquisition,
    acquire,
    expected_improvement,
    knowledge_gradient,
    upper_confidence_bound,
)
from acsearch.bayes import HierarchicalLaw, Posterior
from acsearch.errors import ConfigError, PoolExhausted
from acsearch.law import FULL, WITHOUT_C, Array, Features, Index, PublishedLaw
from acsearch.prior import Prior
from acsearch.recommend import recommend

DEFAULT = "ucb"


@dataclass(frozen=True, eq=False)
class State:
    """All that a policy may know: the pool's A and C, and the scores of the candidates finetuned so far.

    weights: (M,) the objective as a weighted sum of scaled scores.  observed: (n,) rows, ascending.
    scores: (n, M) scaled.  pending: rows being finetuned.  excluded: rows that cannot be (their finetune failed).
    """

    features: Features
    weights: Array
    observed: Index
    scores: Array
    pending: Index
    excluded: Index

    @property
    def available(self) -> Index:
        """Rows that may be proposed. Raises PoolExhausted when none is left."""
        taken = np.concatenate([self.observed, self.pending, self.excluded])
        rows = np.setdiff1d(np.arange(len(self.features.alignment)), taken)
        if not len(rows):
            raise PoolExhausted("every candidate of the pool has been proposed already")
        return rows


class Policy(Protocol):
    """Proposes and ranks. Stateless: the same state and seed give the same answer anywhere."""

    def propose(self, state: State, seed: int) -> int:
        """Row of the candidate to finetune next. Raises PoolExhausted."""
        ...

    def rank(self, state: State, seed: int) -> Index:
        """(N,) all rows, the most promising first."""
        ...


@dataclass(frozen=True)
class LawPolicy:
    """The Bayesian law: proposes by an acquisition function, ranks by the probability of being the best."""

    fit: Callable[[Features, Index, Array], Posterior]
    acquisition: Acquisition

    def propose(self, state: State, seed: int) -> int:
        posterior = self.fit(state.features, state.observed, state.scores)
        values = acquire(posterior, state.weights, state.pending, self.acquisition, seed)
        available = state.available
        return int(available[values[available].argmax()])

    def rank(self, state: State, seed: int) -> Index:
        posterior = self.fit(state.features, state.observed, state.scores)
        return recommend(posterior, state.weights, seed).order


@dataclass(frozen=True)
class RulePolicy:
    """Finetune in the order of a fixed value; rank the finetuned by their scores, then the rest by the value.

    `value` maps state and generator to (N,).
    """

    value: Callable[[State, np.random.Generator], Array]

    def propose(self, state: State, seed: int) -> int:
        available = state.available
        return int(available[self.value(state, np.random.default_rng(seed))[available].argmax()])

    def rank(self, state: State, seed: int) -> Index:
        value = self.value(state, np.random.default_rng(seed))
        finetuned = state.observed[np.argsort(-(state.scores @ state.weights), kind="stable")]
        rest = np.setdiff1d(np.arange(len(value)), finetuned)
        return np.concatenate([finetuned, rest[np.argsort(-value[rest], kind="stable")]])


class PublishedPolicy:
    """Region sampling and the quadratic predictor, as the authors run them (arXiv 2408.16357v3, algorithm 2).

    The unit square of A and C is split into 2^j x 2^j cells, j = 1, 2, ...; cells without a candidate or with one
    already finetuned are dropped; at each level one random candidate is taken from each remaining cell, in random
    order, then the next level begins. Candidates, finetuned ones too, are ranked by the minimum-norm fit.
    """

    def propose(self, state: State, seed: int) -> int:
        rng = np.random.default_rng(seed)
        available = state.available
        taken = np.setdiff1d(np.arange(len(state.features.alignment)), available)
        columns = [state.features.alignment @ state.weights / state.weights.sum()]
        if state.features.correspondence is not None:
            columns.append(state.features.correspondence)
        points = np.stack(columns, axis=1)
        for level in range(1, 53):
            cells = np.minimum(np.floor(points * 2**level), 2**level - 1)
            _, cell = np.unique(cells, axis=0, return_inverse=True)
            open_cells = np.setdiff1d(cell, cell[taken])
            if len(open_cells):
                return int(rng.choice(np.flatnonzero(cell == rng.choice(open_cells))))
        return int(rng.choice(available))  # only exact copies of finetuned candidates are left

    def rank(self, state: State, seed: int) -> Index:
        if len(state.observed) == 1:  # a constant fit: as in the authors' code only the one finetuned counts
            rest = np.setdiff1d(np.arange(len(state.features.alignment)), state.observed)
            return np.concatenate([state.observed, rest])
        used = np.flatnonzero(state.weights)
        features = Features(state.features.alignment[:, used], state.features.correspondence)
        law = PublishedLaw(WITHOUT_C if features.correspondence is None else FULL)
        fitted = law.fit(features, state.observed, state.scores[:, used]).fitted
        return np.argsort(-(fitted @ state.weights[used]), kind="stable")


def _random(state: State, rng: np.random.Generator) -> Array:
    return rng.random(len(state.features.alignment))


def _alignment(state: State, rng: np.random.Generator) -> Array:
    value: Array = state.features.alignment @ state.weights
    return value


def _alignment_and_correspondence(state: State, rng: np.random.Generator) -> Array:
    value = _alignment(state, rng)
    return (
        value if state.features.correspondence is None else value + state.features.correspondence * state.weights.sum()
    )


_ACQUISITIONS: dict[str, Acquisition] = {
    "ucb": upper_confidence_bound,
    "ei": expected_improvement,
    "kg": knowledge_gradient,
}
_RULES: dict[str, Callable[[State, np.random.Generator], Array]] = {
    "random": _random,
    "top-a": _alignment,
    "a+c": _alignment_and_correspondence,
}
POLICIES = (*_ACQUISITIONS, "published", *_RULES, "oracle")
STUDY_POLICIES = tuple(name for name in POLICIES if name != "oracle")


def resolve(name: str) -> str:
    """The name that a policy is kept under: `default` may be another one in a later version."""
    return DEFAULT if name.lower() == "default" else name.lower()


def make_policy(
    name: str,
    prior: Prior,
    *,
    truth: Array | None = None,
    fit: Callable[[Features, Index, Array], Posterior] | None = None,
) -> Policy:
    """A policy by name (any case; `default` is the default). Raises ConfigError naming the known ones.

    truth: (N, M) scaled scores of the whole pool, for the oracle, which finetunes the best first.
    fit: stands in for fitting the law, for instance to remember fits.
    """
    key = resolve(name)
    if key in _ACQUISITIONS:
        return LawPolicy(fit or HierarchicalLaw(prior).fit, _ACQUISITIONS[key])
    if key in _RULES:
        return RulePolicy(_RULES[key])
    if key == "published":
        return PublishedPolicy()
    if key == "oracle" and truth is not None:
        scores = truth
        return RulePolicy(lambda state, rng: scores @ state.weights)
    known = POLICIES if truth is not None else STUDY_POLICIES
    raise ConfigError(f"no policy {name!r}; known: default ({DEFAULT}), {', '.join(known)}")
