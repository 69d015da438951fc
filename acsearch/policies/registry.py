"""The policies by name. A new policy is a file with its class or function, and one line in `POLICIES`.

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

Standard errors are at most 0.012 (recall) and a tenth of the regret. Two conclusions: most of what the law gains over a
rule in recall@3 comes from candidates that were not finetuned, because the law also says which of the finetuned ones
are not the best. And each rule is good on one table only: A + C where C helps, A where it does not. The law finds out
by itself which of the two holds.
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
    """What a policy is made from.

    Attributes:
        fit: Fits the Bayesian law, as `HierarchicalLaw.fit` does.
        truth: (N, M) scaled scores of the whole pool, for the oracle; None in a study.
    """

    fit: Callable[[Features, Index, Array], Posterior]
    truth: Array | None


def _law(acquisition: Acquisition) -> Callable[[PolicyContext], Policy]:
    return lambda context: LawPolicy(context.fit, acquisition)


def _rule(value: Callable[[State, np.random.Generator], Array]) -> Callable[[PolicyContext], Policy]:
    return lambda context: RulePolicy(value)


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


def _oracle(context: PolicyContext) -> Policy:
    truth = context.truth
    if truth is None:
        raise ConfigError("the policy 'oracle' looks at scores that a study does not have; it is for replays alone")
    return RulePolicy(lambda state, rng: truth @ state.weights)


POLICIES: dict[str, Callable[[PolicyContext], Policy]] = {
    "ucb": _law(upper_confidence_bound),
    "ei": _law(expected_improvement),
    "kg": _law(knowledge_gradient),
    "published": lambda context: PublishedPolicy(),
    "random": _rule(_random),
    "top-a": _rule(_alignment),
    "a+c": _rule(_alignment_and_correspondence),
    "oracle": _oracle,
}


def resolve(name: str) -> str:
    """The canonical name of a policy, in lower case; `default` becomes the name of today's default policy."""
    return DEFAULT if name.lower() == "default" else name.lower()


def make_policy(
    name: str,
    prior: Prior,
    *,
    truth: Array | None = None,
    fit: Callable[[Features, Index, Array], Posterior] | None = None,
) -> Policy:
    """Make a policy by its name.

    Args:
        name: A key of `POLICIES`, or `default`; upper and lower case are the same.
        prior: The prior of the Bayesian law.
        truth: (N, M) scaled scores of the whole pool, for the oracle.
        fit: Replaces the fit of the law with this prior, for instance by one that caches.

    Raises:
        ConfigError: the name is unknown, or the oracle is asked for without `truth`.
    """
    if resolve(name) not in POLICIES:
        raise ConfigError(f"no policy {name!r}; known: default ({DEFAULT}), {', '.join(POLICIES)}")
    return POLICIES[resolve(name)](PolicyContext(fit or HierarchicalLaw(prior).fit, truth))
