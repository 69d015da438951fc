"""What a policy is, and the two common kinds: one that goes by the law, one that goes by a fixed value.

`acsearch.policies.registry` has them all by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from acsearch.errors import PoolExhausted
from acsearch.law.bayes import Posterior
from acsearch.law.features import Array, Features, Index
from acsearch.policies.acquisition import Acquisition, acquire
from acsearch.policies.recommendation import recommend


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
