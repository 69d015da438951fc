"""Rules, region sampling, replays and the sampler's reading of trials, worked out by hand on small pools."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from acsearch.errors import PoolExhausted
from acsearch.law.features import Features
from acsearch.law.prior import Prior
from acsearch.policies import replay as replays
from acsearch.policies.base import RulePolicy, State
from acsearch.policies.region_sampling import PublishedPolicy
from acsearch.policies.registry import make_policy, resolve
from acsearch.policies.replay import Estimate, replay
from acsearch.policies.sampler import PARAMETER, SCORES_ATTRIBUTE, CandidateSampler, proposal_seed
from acsearch.tables.table import BenchmarkScale, Table, TableMetadata
from trainers.errors import ConfigError


def rows(*given: int) -> np.ndarray:
    return np.array(given, dtype=np.intp)


def pool(a: list[float], c: list[float] | None, observed: list[int], scores: list[float], **others: list[int]) -> State:
    """One benchmark."""
    features = Features(np.array(a)[:, None], None if c is None else np.array(c))
    pending, excluded = (rows(*others.get(name, [])) for name in ("pending", "excluded"))
    return State(features, np.ones(1), rows(*observed), np.array(scores).reshape(-1, 1), pending, excluded)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_rule_proposes_the_highest_available_and_ranks_the_finetuned_first() -> None:
    policy = RulePolicy(lambda state, rng: np.array([5.0, 4.0, 3.0, 2.0, 1.0, 2.0]))
    state = pool([0.0] * 6, None, [0, 4, 5], [0.3, 0.9, 0.3], pending=[1], excluded=[2])
    assert state.available.tolist() == [3]
    assert policy.propose(state, 0) == 3
    assert policy.rank(state, 0).tolist() == [4, 0, 5, 1, 2, 3]
    with pytest.raises(PoolExhausted):
        _ = replace(state, excluded=rows(2, 3)).available
    with pytest.raises(FrozenInstanceError):
        state.weights = np.zeros(1)  # type: ignore[misc]


def test_rules_by_alignment_and_correspondence(weak: Prior) -> None:
    """Weights of two benchmarks, 2 and 1: A counts 2 * A1 + A2, C counts three times."""
    alignment = np.array([[0.0, 1.0], [0.6, 0.0], [0.5, 0.5], [0.1, 0.2]])
    features = Features(alignment, np.array([0.0, 0.0, 0.1, 1.0]))
    state = State(features, np.array([2.0, 1.0]), rows(), np.empty((0, 2)), rows(), rows())
    assert make_policy("top-a", weak).rank(state, 0).tolist() == [2, 1, 0, 3]  # 1.5, 1.2, 1, 0.4
    assert make_policy("a+c", weak).rank(state, 0).tolist() == [3, 2, 1, 0]  # 3.4, 1.8, 1.2, 1
    without = replace(state, features=Features(alignment, None))
    assert make_policy("a+c", weak).rank(without, 0).tolist() == [2, 1, 0, 3]
    truth = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.5]])
    assert make_policy("ORACLE", weak, truth=truth).rank(state, 0).tolist() == [3, 2, 1, 0]
    first = {make_policy("random", weak).propose(state, seed) for seed in range(40)}
    assert first == {0, 1, 2, 3}
    assert (resolve("Default"), resolve("EI")) == ("ucb", "ei")


# -- region sampling ---------------------------------------------------------------------------------------------------


def region(state: State) -> set[int]:
    return {PublishedPolicy().propose(state, seed) for seed in range(100)}


def test_cells_are_halved_until_one_is_open() -> None:
    """Columns 0 to 1 of A with C = 0. Level 1 splits at 1/2, level 2 at quarters, level 3 at eighths."""
    a = [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 1.0]
    c = [0.0] * 7
    assert region(pool(a, c, [0], [0.1])) == {3, 4, 5, 6}  # 0.5 is in the upper half
    assert region(pool(a, c, [0, 6], [0.1, 0.2])) == {2, 3, 4}  # quarters; 0.8 and 1.0 share the last
    assert region(pool(a, c, [0, 2, 4, 6], [0.1] * 4)) == {3, 5}  # eighths: 0.0 and 0.1 share the first
    assert region(pool(a, c, [0, 2, 3, 4, 5, 6], [0.1] * 6)) == {1}  # sixteenths
    assert region(pool(a, None, [0], [0.1])) == {3, 4, 5, 6}
    both = pool([0.0, 0.0, 0.9, 0.9], [0.0, 0.9, 0.0, 0.9], [0], [0.1], pending=[1], excluded=[2])
    assert region(both) == {3}  # pending and failed candidates close their cells too
    copies = pool([0.25, 0.25, 0.25, 0.75], [0.5] * 4, [0, 3], [0.1, 0.2])
    assert region(copies) == {1, 2}


def test_cells_are_of_the_mean_alignment_by_the_objective_s_weights() -> None:
    """With weights 3 and 1 the mean A of candidate 1 is 0.25 and that of 2 is 0.75."""
    features = Features(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), None)
    state = State(features, np.array([3.0, 1.0]), rows(0), np.zeros((1, 2)), rows(), rows())
    assert region(state) == {2}


def test_the_published_ranking_is_the_fit_s_and_after_one_finetune_the_finetuned_first() -> None:
    a = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert PublishedPolicy().rank(pool(a, None, [3], [0.5]), 0).tolist() == [3, 0, 1, 2, 4]
    # score = 1 - (2 a - 1)^2 through three points, exactly: the middle is the highest
    state = pool(a, None, [0, 1, 4], [0.0, 0.75, 0.0])
    assert PublishedPolicy().rank(state, 0).tolist()[:3] == [2, 1, 3]
    two = State(
        Features(np.array(a)[:, None].repeat(2, axis=1), None),
        np.array([0.0, 1.0]),
        rows(0, 1, 4),
        np.array([[9.0, 0.0], [0.0, 0.75], [9.0, 0.0]]),
        rows(),
        rows(),
    )
    assert PublishedPolicy().rank(two, 0).tolist()[:3] == [2, 1, 3]  # a benchmark of weight 0 does not count


# -- replay ------------------------------------------------------------------------------------------------------------


def test_an_estimate_has_the_standard_error_of_the_mean() -> None:
    """Of 1, 2, 3, 6: mean 3, variance 14 / 3, so sqrt(14 / 12)."""
    estimate = Estimate.of([1, 2, 3, 6])
    assert (estimate.value, estimate.error) == (3, pytest.approx(math.sqrt(14 / 12)))
    alone = Estimate.of([2.0])
    assert alone.value == 2
    assert math.isnan(alone.error)
    assert Estimate.of([2.0, 4.0]).error == pytest.approx(1)


@pytest.fixture
def small(v1: Table) -> Table:
    """Five candidates on two benchmarks: the order by A is 0 1 2 3 4, the best are 3 and 1."""
    benchmarks = tuple(BenchmarkScale(name, floor=0, ceiling=1) for name in ("one", "two"))
    return replace(
        v1.subset(np.arange(5)),
        scores=np.array([[0.1, 0.2], [0.2, 0.9], [0.3, 0.5], [0.8, 0.1], [0.4, 0.45]]),
        alignment=np.array([[5.0], [4.0], [3.0], [2.0], [1.0]]).repeat(2, axis=1),
        correspondence=np.full(5, np.nan),
        errors=np.full((5, 2), np.nan),
        metadata=TableMetadata(benchmarks=benchmarks),
    )


def test_a_replay_by_hand(small: Table, weak: Prior) -> None:
    """Finetuned are 0 and 1, and both rankings 1 0 2 3 4. The best of benchmark one is 3, of two 1."""
    (done,) = replay(small, ["top-a"], weak, budget=2, repeats=2, jobs=1)
    assert (done.table, done.policy, done.budget, done.subset, done.repeats) == (small.name, "top-a", 2, 5, 2)
    values = {name: {key: one.value for key, one in found.items()} for name, found in done.benchmarks.items()}
    assert values["one"] == {"recall@1": 0, "recall@3": 0, "finetuned": 0, "regret": pytest.approx(0.6)}
    assert values["two"] == {"recall@1": 1, "recall@3": 1, "finetuned": 1, "regret": 0}
    assert done.mean["recall@1"].value == 0.5
    assert done.mean["regret"].value == pytest.approx(0.3)
    mean = small.scores.mean(axis=1)  # 0.15, 0.55, 0.4, 0.45, 0.425: 1 is the best and finetuned
    assert done.mean["regret_sd"].value == 0
    (one,) = replay(small, ["top-a"], weak, budget=1, repeats=2, jobs=1)
    assert one.mean["regret_sd"].value == pytest.approx((0.55 - 0.15) / mean.std())
    assert one.benchmarks["two"]["recall@1"].value == 0
    assert one.benchmarks["two"]["recall@3"].value == 1  # second by A


def test_first_hits_by_hand(small: Table, weak: Prior) -> None:
    """One: 3 is found when ranked third or better: after finetunes 0, 1, 2 the order is 2 1 0, so with the fourth.
    Two: the first proposal is 0, and after one finetune only the first of the ranking counts; then 1 leads."""
    (done,) = replay(small, ["top-a"], weak, budget=3, repeats=2, jobs=1, first_hit=True)
    assert [found["first_hit"].value for found in done.benchmarks.values()] == [4, 2]
    assert [found["within_budget"].value for found in done.benchmarks.values()] == [0, 1]
    (done,) = replay(small, ["top-a"], weak, budget=4, repeats=2, jobs=1, first_hit=True)
    assert done.mean["within_budget"].value == 1
    assert done.mean["first_hit"].value == 3


def test_budgets_and_subsets_at_their_limits(small: Table, weak: Prior) -> None:
    (whole,) = replay(small, ["top-a"], weak, budget=5, repeats=1, jobs=1)
    assert whole.mean["regret"].value == 0
    (pair,) = replay(small, ["top-a"], weak, budget=2, subset=2, repeats=3, jobs=1)
    assert (pair.subset, pair.mean["regret"].value) == (2, 0)
    for budget, subset in ((0, 3), (4, 3), (1, 1), (1, 6)):
        with pytest.raises(ConfigError, match="--budget" if subset == 3 else "--subset"):
            replay(small, ["top-a"], weak, budget=budget, subset=subset, repeats=1, jobs=1)


def test_replays_are_a_function_of_the_seed_whatever_the_number_of_repeats(v1: Table, weak: Prior) -> None:
    def values(repeats: int, seed: int) -> float:
        (done,) = replay(v1, ["random"], weak, budget=2, subset=5, repeats=repeats, seed=seed, jobs=1)
        return done.mean["regret"].value

    assert values(3, 0) == values(3, 0) != values(3, 1)
    pools = [
        next(iter(replays._set_up(v1, ["random"], weak, [np.random.SeedSequence([0, repeat])], 5)))[0]
        for repeat in (0, 1)
    ]
    assert pools[0].representations != pools[1].representations
    assert list(pools[0].representations) == [name for name in v1.representations if name in pools[0].representations]


def test_fits_are_remembered_by_what_was_finetuned(v1: Table, weak: Prior) -> None:
    class Counting:
        calls = 0

        def fit(self, *_: object) -> int:
            self.calls += 1
            return self.calls

    memory = replays._FitCache(Counting())  # type: ignore[arg-type]
    features, scores = Features.of(v1), v1.scaled
    fits = [memory.fit(features, rows(*some), scores) for some in ((0, 1), (0, 2), (0, 1))]
    assert fits == [1, 2, 1]


# -- the sampler -------------------------------------------------------------------------------------------------------


def test_trials_become_a_state(v1: Table, weak: Prior) -> None:
    def trial(row: int, state: TrialState) -> optuna.trial.FrozenTrial:
        done = state == TrialState.COMPLETE
        return create_trial(
            state=state,
            params={PARAMETER: row},
            distributions={PARAMETER: IntDistribution(0, 12)},
            value=0.5 if done else None,
            user_attrs={SCORES_ATTRIBUTE: {"b": row + 0.5, "a": float(row)}} if done else {},
        )

    sampler = CandidateSampler(make_policy("random", weak), Features.of(v1), ("a", "b"), np.ones(2))
    state = sampler.state(
        [
            trial(7, TrialState.COMPLETE),
            trial(2, TrialState.COMPLETE),
            trial(3, TrialState.RUNNING),
            trial(1, TrialState.WAITING),
            trial(7, TrialState.RUNNING),  # finetuned already
            trial(9, TrialState.FAIL),
            trial(8, TrialState.PRUNED),
            trial(2, TrialState.FAIL),  # succeeded another time
            trial(3, TrialState.FAIL),  # runs again
            create_trial(state=TrialState.RUNNING),  # nothing proposed yet
        ]
    )
    assert state.observed.tolist() == [2, 7]
    assert state.scores.tolist() == [[2, 2.5], [7, 7.5]]
    assert state.pending.tolist() == [1, 3]
    assert state.excluded.tolist() == [8, 9]
    empty = sampler.state([])
    assert empty.scores.shape == (0, 2)


def test_a_trial_does_not_count_itself_and_has_its_own_seed(v1: Table) -> None:
    class Seen:
        def propose(self, state: State, seed: int) -> int:
            self.state, self.seed = state, seed
            return 5

        def rank(self, state: State, seed: int) -> np.ndarray:
            raise NotImplementedError

    policy = Seen()
    sampler = CandidateSampler(policy, Features.of(v1), v1.benchmarks, np.ones(8), seed=4)
    study = optuna.create_study(sampler=sampler)
    study.add_trial(
        create_trial(state=TrialState.FAIL, params={PARAMETER: 3}, distributions={PARAMETER: IntDistribution(0, 12)})
    )
    trial = study.ask()
    assert trial.suggest_int(PARAMETER, 0, 12) == 5
    assert policy.state.excluded.tolist() == [3]
    assert policy.state.pending.tolist() == []
    assert policy.seed == proposal_seed(4, 1) == int(np.random.SeedSequence([4, 1]).generate_state(1)[0])
    assert sampler.infer_relative_search_space(study, study.trials[1]) == {PARAMETER: IntDistribution(0, 12)}
    assert sampler.sample_relative(study, study.trials[1], {}) == {}
    assert CandidateSampler(policy, Features.of(v1), v1.benchmarks, np.ones(8))._seed == 0


def test_other_parameters_depend_on_seed_trial_and_name(v1: Table, weak: Prior) -> None:
    def value(seed: int, number: int, name: str) -> float:
        sampler = CandidateSampler(make_policy("random", weak), Features.of(v1), v1.benchmarks, np.ones(8), seed)
        study = optuna.create_study(sampler=sampler)
        for _ in range(number):
            study.ask()
        return study.ask().suggest_float(name, 0, 1)

    assert value(0, 0, "x") == value(0, 0, "x")
    assert len({value(0, 0, "x"), value(1, 0, "x"), value(0, 1, "x"), value(0, 0, "y")}) == 4


def test_cells_are_halved_52_times() -> None:
    """A float between 1/2 and 1 has 53 binary places: what differs in the last one alone counts as a copy."""
    least = 2.0**-53
    assert region(pool([0.5, 0.5 + 2 * least, 0.5], None, [0], [0.1])) == {1}
    assert region(pool([0.5, 0.5 + least, 0.5], None, [0], [0.1])) == {1, 2}


class Recorder(RulePolicy):
    """Notes its seeds; goes by A."""

    def __init__(self) -> None:
        super().__init__(lambda state, rng: state.features.alignment[:, 0])
        object.__setattr__(self, "proposed", [])
        object.__setattr__(self, "ranked", [])

    def propose(self, state: State, seed: int) -> int:
        self.proposed.append(seed)
        return super().propose(state, seed)

    def rank(self, state: State, seed: int) -> np.ndarray:
        self.ranked.append(seed)
        return super().rank(state, seed)


def test_the_seeds_of_a_replay_stay_what_they_were(small: Table, weak: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """1009 apart from benchmark to benchmark. The figures that are written down hold for these seeds alone."""
    policy = Recorder()
    monkeypatch.setattr(replays, "make_policy", lambda *_, **__: policy)
    rng = np.random.default_rng(np.random.SeedSequence([6, 0]))
    rng.choice(5, 5, replace=False)
    seed = int(rng.integers(2**31))
    replay(small, ["any"], weak, budget=2, repeats=1, seed=6, jobs=1)
    assert policy.proposed == [(seed + b) * 1009 + step for b in (0, 1, 2) for step in (0, 1)]
    assert policy.ranked == [seed, seed + 1]
    policy.proposed.clear()
    policy.ranked.clear()
    replay(small, ["any"], weak, budget=2, repeats=1, seed=6, jobs=1, first_hit=True)
    counts = {0: 4, 1: 2}  # finetunes until the first hit, as above
    assert policy.proposed == [(seed + b) * 1009 + n for b in (0, 1) for n in range(1, counts[b] + 1)]
    assert policy.ranked == [seed] * 4 + [seed + 1] * 2
