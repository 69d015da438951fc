"""What a policy is, and the two common kinds: one that uses the law, and one that orders candidates by a rule.

`acsearch.policies.registry` lists all policies by name.
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
    """Everything that a policy may use: A and C of the pool, and the scores of the finetuned candidates.

    Attributes:
        features: A and C of the whole pool.
        weights: (M,) weights of the benchmarks in the objective.
        observed: (n,) rows of the finetuned candidates, ascending.
        scores: (n, M) their scaled scores.
        pending: Rows of the candidates that are being finetuned.
        excluded: Rows of the candidates whose finetune failed.
    """

    features: Features
    weights: Array
    observed: Index
    scores: Array
    pending: Index
    excluded: Index

    @property
    def available(self) -> Index:
        """Rows of the candidates that may be proposed.

        Raises:
            PoolExhausted: no candidate is left.
        """
        taken = np.concatenate([self.observed, self.pending, self.excluded])
        rows = np.setdiff1d(np.arange(len(self.features.alignment)), taken)
        if not len(rows):
            raise PoolExhausted("every candidate of the pool has been proposed already")
        return rows


class Policy(Protocol):
    """Proposes and ranks candidates. It is stateless: the same state and seed give the same answer on any machine."""

    def propose(self, state: State, seed: int) -> int:
        """The row of the candidate to finetune next.

        Raises:
            PoolExhausted: every candidate has been proposed already.
        """
        ...

    def rank(self, state: State, seed: int) -> Index:
        """(N,) all rows of the pool, the most promising first."""
        ...


@dataclass(frozen=True)
class LawPolicy:
    """Proposes by an acquisition function on the Bayesian law, and ranks by the probability of being the best.

    Attributes:
        fit: Fits the law, as `HierarchicalLaw.fit` does.
        acquisition: The acquisition function.
    """

    fit: Callable[[Features, Index, Array], Posterior]
    acquisition: Acquisition

    def propose(self, state: State, seed: int) -> int:
        """The available row with the highest value of the acquisition function; see `Policy.propose`."""
        posterior = self.fit(state.features, state.observed, state.scores)
        values = acquire(posterior, state.weights, state.pending, self.acquisition, seed)
        available = state.available
        return int(available[values[available].argmax()])

    def rank(self, state: State, seed: int) -> Index:
        """(N,) all rows by their probability of being the best."""
        posterior = self.fit(state.features, state.observed, state.scores)
        return recommend(posterior, state.weights, seed).order


@dataclass(frozen=True)
class RulePolicy:
    """Proposes the candidate with the highest value; ranks finetuned candidates by score, then the others by value.

    Attributes:
        value: Computes (N,) values from the state; it may draw from the generator.
    """

    value: Callable[[State, np.random.Generator], Array]

    def propose(self, state: State, seed: int) -> int:
        """The available row with the highest value; see `Policy.propose`."""
        available = state.available
        return int(available[self.value(state, np.random.default_rng(seed))[available].argmax()])

    def rank(self, state: State, seed: int) -> Index:
        """(N,) the finetuned rows by their scores, then the others by their values."""
        value = self.value(state, np.random.default_rng(seed))
        finetuned = state.observed[np.argsort(-(state.scores @ state.weights), kind="stable")]
        rest = np.setdiff1d(np.arange(len(value)), finetuned)
        return np.concatenate([finetuned, rest[np.argsort(-value[rest], kind="stable")]])
