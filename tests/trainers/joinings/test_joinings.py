"""Joinings with a connector for each encoder: orders of tokens by hand. Those of one map: encoders/test_joined.py."""

from __future__ import annotations

import pytest
import torch

from trainers.connectors.branches import Branches, make_branches
from trainers.contracts import Features, Layout, MapShape, Seen, Tokens
from trainers.errors import SpaceError
from trainers.framings import make_framing
from trainers.joinings import make_joining
from trainers.joinings.append import Append
from trainers.joinings.interleave import Interleave
from trainers.representation import Choice, words

A = Tokens(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), (2, 2))
B = Tokens(torch.tensor([[10.0], [20.0], [30.0], [40.0]]), (2, 2))


def test_orders_by_hand() -> None:
    joined = Append().tokens([A, B])
    assert joined.counts == (4, 4)
    assert joined.values[:, 0].tolist() == [1, 2, 10, 20, 3, 4, 30, 40]
    mixed = Interleave().tokens([A, B])
    assert mixed.counts == (4, 4)
    assert mixed.values[:, 0].tolist() == [1, 10, 2, 20, 3, 30, 4, 40]
    single = Tokens(torch.tensor([[7.0], [8.0]]), (1, 1))
    assert Append().tokens([A, single]).values[:, 0].tolist() == [1, 2, 7, 3, 4, 8]
    assert Append().count([2, 1]) == 3
    with pytest.raises(SpaceError, match=r"only equally many tokens .* not \[1, 2\]"):
        Interleave().count([2, 1])


@pytest.mark.parametrize("word", words("joining"))
@pytest.mark.parametrize("grid", [None, 3])
def test_shapes_are_those_of_the_features(word: str, grid: int | None) -> None:
    joining = make_joining(Choice(word, grid))
    parts = [Features.of_maps(torch.ones(2, 4, 4, 6)), Features.of_maps(torch.ones(2, 6, 6, 5))]
    shapes = joining.shapes([MapShape((4, 4), 6), MapShape((6, 6), 5)])
    found = joining.features(parts)
    assert [(one.grids[0], one.values.shape[-1]) for one in found] == [(one.grid, one.width) for one in shapes]


def test_each_encoder_has_a_connector_of_its_own() -> None:
    framing, shapes = make_framing(Choice("letterbox"), 32, 8), [MapShape((4, 4), 6), MapShape((2, 2), 6)]
    made = make_branches(Choice("linear"), framing, Append(), shapes, 8, seed=0)
    assert isinstance(made, Branches)
    first, second = (one.projection.weight for one in made._each())
    assert not torch.equal(first, second)  # though of equal widths
    alone = make_branches(Choice("linear"), framing, make_joining(Choice("concat")), shapes[:1], 8, seed=0)
    assert torch.equal(first, alone.projection.weight)  # the first starts as it would alone
    layout = Layout(5, 5)
    parts = (Features.of_maps(torch.randn(1, 4, 4, 6)), Features.of_maps(torch.randn(1, 2, 2, 6)))
    tokens = made(parts, Seen((layout,), torch.zeros(1, dtype=torch.long)))
    assert tokens.counts == (made.count(layout),) == (20,)
    torch.testing.assert_close(tokens.values[16:], parts[1].values[0] @ second.T + made._each()[1].projection.bias)


def test_grids_that_differ_are_padded_and_resampled_each_on_its_own() -> None:
    maps = [torch.randn(2, 3, 4), torch.randn(1, 5, 4), torch.randn(2, 3, 4)]
    features = Features.padded(maps)
    assert features.values.shape == (3, 6, 4)
    assert features.mask.sum(1).tolist() == [6, 5, 6]
    assert [views for views, _ in features.by_grid()] == [[0, 2], [1]]
    (joined,) = make_joining(Choice("concat")).features([features, features])
    assert joined.grids == features.grids
    assert torch.equal(joined.values, features.values.repeat(1, 1, 2))
    (coarse,) = make_joining(Choice("concat", 2)).features([features])
    assert coarse.grids == ((2, 2),) * 3
    for place, one in enumerate(maps):
        (alone,) = make_joining(Choice("concat", 2)).features([Features.of_maps(one[None])])
        torch.testing.assert_close(coarse.values[place], alone.values[0])
