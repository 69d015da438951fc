"""An order of samples that depends on the seed alone, whatever the number of processes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from trainers.data.packing import Packed
from trainers.data.sampler import Padded, Schedule, Share, Split, computed, epoch_order

SHAPES = list(itertools.product((1, 7, 24, 50), (1, 4, 12), (1, 2, 3, 8), (1, 2, 5)))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("samples", "batch", "world", "micro"), SHAPES)
def test_ranks_are_disjoint_and_exhaustive(samples: int, batch: int, world: int, micro: int, packed: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, samples)
    schedule = Schedule(lengths, batch, seed=3, epochs=2)
    split: Split = Packed(lengths, micro * 100) if packed else Padded(lengths, micro)
    seen: list[int] = []
    for step in range(schedule.steps):
        parts = split(schedule.global_batch(step), world)
        assert len(parts) == world
        assert len({len(part) for part in parts}) == 1  # or some rank would wait for another
        assert len(parts[0]) >= 1
        if packed:
            assert all(lengths[one].sum() <= micro * 100 for part in parts for one in part)
        else:
            assert all(len(one) <= micro for part in parts for one in part)
        taken = [int(sample) for part in parts for one in part for sample in one]
        assert sorted(taken) == sorted(schedule.global_batch(step).tolist())  # whatever the world
        seen += taken
    for epoch in range(2):
        assert sorted(seen[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_what_is_computed_at_the_same_time_is_of_similar_length() -> None:
    """Less of it is padding than where every process takes samples as they come."""
    draws = np.random.default_rng(0)
    texts = draws.integers(50, 500, 4096)  # by which samples are ordered, for every candidate alike
    positions = texts + np.where(draws.random(4096) < 0.5, 576, 0)
    split, schedule = Padded(positions, 4), Schedule(texts, 128, seed=0)

    def waste(shares: list[Share]) -> float:
        return 1 - int(positions.sum()) / sum(computed(share, split) for share in shares)

    steps = [schedule.global_batch(step) for step in range(schedule.steps)]
    unsorted = [[[one[rank::8][i : i + 4] for i in range(0, 16, 4)] for rank in range(8)] for one in steps]
    assert waste([split(one, 8) for one in steps]) < 0.6 * waste(unsorted)


@pytest.mark.parametrize(("samples", "batch", "epochs", "steps"), [(10, 4, 3, 9), (10, 4, 0.5, 2), (10, 4, 1.1, 4)])
def test_steps_of_an_epoch(samples: int, batch: int, epochs: float, steps: int) -> None:
    """10 samples in batches of 4 are 3 steps an epoch, the last of 2 samples."""
    assert Schedule(np.ones(samples), batch, seed=0, epochs=epochs).steps == steps
    assert Schedule(np.ones(samples), batch, seed=0, epochs=0.001).steps == 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    first = epoch_order(lengths, 8, seed=1, epoch=0)
    np.random.default_rng(5).random(3)
    torch.rand(3)
    assert first.tolist() == epoch_order(lengths.copy(), 8, seed=1, epoch=0).tolist()
    others = [epoch_order(lengths, 8, seed, epoch).tolist() for seed, epoch in ((1, 1), (2, 0), (0, 1))]
    assert len({tuple(one) for one in [first.tolist(), *others]}) == 4
    by_hand = Schedule(lengths, 8, seed=1, epochs=3)
    later = [by_hand.global_batch(step).tolist() for step in (120, 3, 75)]  # whatever was asked for before
    fresh = [Schedule(lengths, 8, seed=1, epochs=3).global_batch(step).tolist() for step in (120, 3, 75)]
    assert later == fresh


def test_a_batch_holds_texts_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 1000)
    grouped = epoch_order(lengths, 10, seed=0, epoch=0).reshape(-1, 10)
    spread = np.ptp(lengths[grouped], axis=1).mean()
    assert spread < 0.2 * np.ptp(lengths[np.random.default_rng(1).permutation(1000).reshape(-1, 10)], axis=1).mean()
    heads = lengths[grouped].mean(axis=1)
    assert abs(np.corrcoef(heads[:-1], heads[1:])[0, 1]) < 0.3  # and the batches themselves come in no order of length
