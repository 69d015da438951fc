"""The sampler: Optuna's own contract, and ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState, create_trial

from acsearch.errors import PoolExhausted
from acsearch.law.bayes import objective_weights
from acsearch.law.features import Features
from acsearch.law.prior import Prior
from acsearch.policies.registry import POLICIES, make_policy
from acsearch.policies.sampler import PARAMETER, SCORES_ATTRIBUTE, CandidateSampler
from acsearch.tables.table import Table


def sampler_of(table: Table, prior: Prior, policy: str = "default", seed: int = 0) -> CandidateSampler:
    weights = objective_weights(table.benchmarks, "mean")
    return CandidateSampler(make_policy(policy, prior), Features.of(table), table.benchmarks, weights, seed)


class TestContract(BasicSamplerTestCase):
    """Optuna's public contract. Not inherited: its suites for relative sampling of arbitrary spaces, which this
    sampler declines, and for several objectives, which belong in the weights of one."""

    @pytest.fixture
    def sampler(self, v1: Table, weak: Prior) -> Callable[[], BaseSampler]:
        return lambda: sampler_of(v1, weak, "random")


def ask(study: optuna.Study) -> tuple[optuna.Trial, int]:
    trial = study.ask()
    return trial, trial.suggest_int(PARAMETER, 0, 12)


def tell(study: optuna.Study, trial: optuna.Trial, table: Table, row: int) -> None:
    trial.set_user_attr(SCORES_ATTRIBUTE, dict(zip(table.benchmarks, table.scaled[row].tolist(), strict=True)))
    study.tell(trial, float(table.scaled[row].mean()))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "oracle"])
def test_a_copied_study_proposes_the_same(v1: Table, weak: Prior, policy: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler_of(v1, weak, policy, seed=3))
    rows = []
    for step in range(4):
        if step == 2:  # another process, another storage
            storage = optuna.storages.InMemoryStorage()
            optuna.copy_study(
                from_study_name=study.study_name, from_storage=study._storage, to_storage=storage, to_study_name="there"
            )
            elsewhere = optuna.load_study(
                study_name="there", storage=storage, sampler=sampler_of(v1, weak, policy, seed=3)
            )
            expected = ask(elsewhere)[1]
        trial, row = ask(study)
        if step == 2:
            assert row == expected
        tell(study, trial, v1, row)
        rows.append(row)
    assert len(set(rows)) == 4


def test_running_trials_are_pending_and_failed_ones_excluded(v1: Table, weak: Prior) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler_of(v1, weak))
    running = [ask(study)[1] for _ in range(5)]
    assert len(set(running)) == 5
    failed = study.trials[0]
    study.tell(failed.number, state=TrialState.FAIL)
    assert ask(study)[1] not in running


def test_randomness_depends_on_seed_and_number_alone(v1: Table, weak: Prior) -> None:
    def third(seed: int) -> int:
        study = optuna.create_study(direction="maximize", sampler=sampler_of(v1, weak, "random", seed))
        for row in (0, 1):
            values = dict(zip(v1.benchmarks, v1.scaled[row].tolist(), strict=True))
            distribution = optuna.distributions.IntDistribution(0, 12)
            study.add_trial(
                create_trial(
                    params={PARAMETER: row},
                    distributions={PARAMETER: distribution},
                    value=0.5,
                    user_attrs={SCORES_ATTRIBUTE: values},
                )
            )
        np.random.seed(seed)  # noqa: NPY002 - the global generator must not matter
        return ask(study)[1]

    assert third(1) == third(1)
    assert len({third(seed) for seed in range(12)}) > 3


def test_the_pool_is_exhausted_with_a_typed_error(v1: Table, weak: Prior) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler_of(v1, weak, "top-a"))
    for _ in range(13):
        trial, row = ask(study)
        tell(study, trial, v1, row)
    with pytest.raises(PoolExhausted):
        ask(study)
