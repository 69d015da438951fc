"""The policies as an Optuna sampler over a finite pool of candidates."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from acsearch.law.features import Array, Features
from acsearch.policies.base import Policy, State

if TYPE_CHECKING:
    from optuna.study import Study

PARAMETER = "candidate"
SCORES_ATTRIBUTE = "scores"


class CandidateSampler(BaseSampler):
    """Proposes rows of a pool by a `Policy`, using only what the Optuna storage holds.

    The study has one parameter, `candidate`, an `IntDistribution` over the rows of the pool. It is an integer and not a
    categorical because Optuna freezes the choices of a categorical, while a pool may grow at its end. The scores of a
    finished trial are read from its user attribute `scores`, a mapping of benchmark to scaled score, because the value
    of a trial is the objective alone. Parameters other than `candidate` are sampled independently and uniformly.

    The sampler keeps no state. Its randomness comes from (seed, trial number), so a study that is resumed on another
    machine proposes what it would have proposed here.

    Running trials count as pending and failed ones as excluded: neither is proposed again. Two processes that ask at
    the same instant do not see each other's proposal; `acsearch.study.trials` asks under a lock for that reason.

    When every candidate has been proposed, the suggestion raises `acsearch.errors.PoolExhausted`. As with any error
    inside `ask`, Optuna leaves that trial running.

    Args:
        policy: The policy that proposes.
        features: A and C of the pool.
        benchmarks: Names of the M benchmarks.
        weights: (M,) weights of the benchmarks in the objective.
        seed: Seed of the study.
    """

    def __init__(
        self, policy: Policy, features: Features, benchmarks: Sequence[str], weights: Array, seed: int = 0
    ) -> None:
        self._policy = policy
        self._features = features
        self._benchmarks = tuple(benchmarks)
        self._weights = weights
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The one parameter `candidate`, as Optuna asks for it."""
        return {PARAMETER: IntDistribution(0, len(self._features.alignment) - 1)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate that the policy proposes for this trial."""
        if PARAMETER not in search_space:
            return {}
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        return {PARAMETER: self._policy.propose(self.state(others), proposal_seed(self._seed, trial.number))}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform sample of any other parameter, by seed, trial number and name."""
        seed = proposal_seed(self._seed, trial.number) ^ zlib.crc32(param_name.encode())
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def state(self, trials: Sequence[FrozenTrial]) -> State:
        """Read the state of the search, which the policy uses, from trials of rows of the pool."""
        rows: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        scores: dict[int, Mapping[str, float]] = {}
        for trial in trials:
            row = trial.params.get(PARAMETER)
            if not isinstance(row, int) or not 0 <= row < len(self._features.alignment):
                continue
            rows[trial.state].add(row)
            if trial.state == TrialState.COMPLETE and SCORES_ATTRIBUTE in trial.user_attrs:
                scores[row] = trial.user_attrs[SCORES_ATTRIBUTE]
        observed = sorted(scores)
        pending = (rows[TrialState.RUNNING] | rows[TrialState.WAITING]) - set(observed)
        over = rows[TrialState.FAIL] | rows[TrialState.PRUNED] | rows[TrialState.COMPLETE]
        excluded = over - set(observed) - pending
        values = np.array([[scores[row][name] for name in self._benchmarks] for row in observed])
        return State(
            features=self._features,
            weights=self._weights,
            observed=np.array(observed, dtype=np.intp),
            scores=values.reshape(len(observed), len(self._benchmarks)),
            pending=np.array(sorted(pending), dtype=np.intp),
            excluded=np.array(sorted(excluded), dtype=np.intp),
        )


def proposal_seed(seed: int, number: int) -> int:
    """The seed of a proposal, computed from the seed of the study and the number of the trial alone."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
