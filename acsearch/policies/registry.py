"""The policies by name. A new one is a file with its class or function, and a line in `POLICIES`.

The default is `ucb`: the Bayesian law with its upper confidence bound. It is the only one that is good on all three
recorded tables under one prior (`weak`). Four finetunes, 300 random pools of 10, 11 and 30 candidates, one search per
benchmark; `acsearch replay law_v1 --policy all --budget 4 --subset 10` and so on; RAVEL: 57 encoders, Qwen2.5, no C:

                 recall@3                best was finetuned       regret of the mean, sd
              v1     v3     RAVEL       v1     v3     RAVEL       v1     v3     RAVEL
    ucb      1.000  0.990  0.787       0.926  0.865  0.562       0.000  0.002  0.043
    ei       0.998  0.990  0.759       0.854  0.837  0.506       0.000  0.003  0.061
    kg       0.977  0.939  0.745       0.739  0.814  0.441       0.004  0.003  0.081
    published 0.782  0.719  0.337      0.436  0.242  0.120       0.032  0.207  0.416
    top-a    0.812  0.890  0.562       0.812  0.890  0.562       0.004  0.002  0.043
    a+c      0.930  0.708  0.562       0.930  0.708  0.562       0.000  0.005  0.043
    random   0.402  0.368  0.133       0.402  0.368  0.133       0.099  0.140  0.510

Standard errors are at most 0.012 (recall) and a tenth of the regret. Two things to read from it. Most of what the law
gains over a rule in recall@3 is that it also names candidates that were not finetuned: it knows which of the finetuned
ones cannot be the best any more. And the rules are each good on one table: A + C where C helps, A where it does not.
The law is not told which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from acsearch.law.bayes import HierarchicalLaw, Posterior
from acsearch.law.features import Array, Features, Index
from acsearch.law.prior import Prior
from acsearch.policies.acquisition import Acquisition, expected_improvement, knowledge_gradient, upper_confidence_bound
from acsearch.policies.base import LawPolicy, Policy, RulePolicy, State
from acsearch.policies.region_sampling import PublishedPolicy
from trainers.errors import ConfigError

DEFAULT = "ucb"


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What a policy may be made of. fit: the Bayesian law.  truth: (N, M) scaled scores of the pool, for the oracle."""

    fit: Callable[[Features, Index, Array], Posterior]
    truth: Array | None


def _law(acquisition: Acquisition) -> Callable[[PolicyContext], Policy]:
    return lambda means: LawPolicy(means.fit, acquisition)


def _rule(value: Callable[[State, np.random.Generator], Array]) -> Callable[[PolicyContext], Policy]:
    return lambda means: RulePolicy(value)


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


def _oracle(means: PolicyContext) -> Policy:
    truth = means.truth
    if truth is None:
        raise ConfigError("the policy 'oracle' looks at scores that a study does not have; it is for replays alone")
    return RulePolicy(lambda state, rng: truth @ state.weights)


POLICIES: dict[str, Callable[[PolicyContext], Policy]] = {
    "ucb": _law(upper_confidence_bound),
    "ei": _law(expected_improvement),
    "kg": _law(knowledge_gradient),
    "published": lambda means: PublishedPolicy(),
    "random": _rule(_random),
    "top-a": _rule(_alignment),
    "a+c": _rule(_alignment_and_correspondence),
    "oracle": _oracle,
}


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

    fit: stands in for fitting the law with this prior, for instance to remember fits.
    """
    if resolve(name) not in POLICIES:
        raise ConfigError(f"no policy {name!r}; known: default ({DEFAULT}), {', '.join(POLICIES)}")
    return POLICIES[resolve(name)](PolicyContext(fit or HierarchicalLaw(prior).fit, truth))
