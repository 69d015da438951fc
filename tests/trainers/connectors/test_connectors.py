"""Connectors: shapes, published parameter counts, and a start that depends on nothing but the seed and the widths."""

from __future__ import annotations

import pytest
import torch

from trainers.connectors import MapConnector
from trainers.connectors.base import make_connector, shape_connector
from trainers.connectors.shuffle import Shuffle
from trainers.contracts import Features, Layout, MapShape, Seen
from trainers.errors import SpaceError
from trainers.representation import Choice, words

KINDS = [Choice("linear"), Choice("mlp2x"), Choice("pool", 7), Choice("shuffle", 2)]

# Millions of parameters from 1024 channels to language models 1536, 2048 and 4096 wide, as counted from the
# implementations in transformers (LLaVA's, PerceptionLM's, Idefics 3's)
PUBLISHED = {
    "linear": (1.574, 2.099, 4.198),
    "mlp2x": (3.935, 6.296, 20.980),
    "pool": (3.935, 6.296, 20.980),
    "shuffle": (6.291, 8.389, 16.777),
}


SQUARE = Layout(10, 10)


def make(choice: Choice, grid: tuple[int, int], in_width: int = 6, out_width: int = 10, seed: int = 0) -> MapConnector:
    made = make_connector(choice, [MapShape(grid, in_width)], out_width, seed)
    assert isinstance(made, MapConnector)
    return made


def test_all_connectors_are_tested():
    assert {choice.kind for choice in KINDS} == set(words("connector")) == set(PUBLISHED)


@pytest.mark.parametrize("choice", KINDS, ids=str)
def test_parameter_counts(choice):
    for width, millions in zip((1536, 2048, 4096), PUBLISHED[choice.kind], strict=True):
        connector = shape_connector(choice, [MapShape((24, 24), 1024)], width)
        assert sum(p.numel() for p in connector.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize("side", [14, 16, 24, 27])
@pytest.mark.parametrize("choice", KINDS, ids=str)
def test_shapes(choice, side):
    if choice.kind == "shuffle" and side % 2:
        with pytest.raises(SpaceError, match=r"'shuffle@2' folds .* do not divide a grid of 27 x 27; .* 'concat@26'"):
            make(choice, (side, side), seed=0)
        return
    connector = make(choice, (side, side), seed=0)
    tokens = {"linear": side**2, "mlp2x": side**2, "pool": 49, "shuffle": side**2 // 4}[choice.kind]
    assert connector.count(SQUARE) == tokens
    assert connector.project(torch.zeros(2, side, side, 6)).shape == (2, tokens, 10)


def test_pooling_cannot_make_a_finer_grid():
    with pytest.raises(SpaceError, match=r"'pool@9' cannot pool a grid of 8 x 8 .* pool@8 or less"):
        make(Choice("pool", 9), (8, 8), seed=0)


def test_pooling_to_the_same_grid_is_the_mlp():
    pool = make(Choice("pool", 4), (4, 4), seed=0)
    mlp = make(Choice("mlp2x"), (4, 4), seed=0)
    mlp.load_state_dict(pool.state_dict())
    features = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool.project(features), mlp.project(features))


def test_shuffle_lays_squares_end_to_end_row_by_row():
    """The order of Idefics 3: torch's pixel_unshuffle with channels innermost."""
    features = torch.arange(2 * 4 * 6 * 3, dtype=torch.float32).view(2, 4, 6, 3)
    shuffle = Shuffle((4, 6), 3, 12, 2)
    shuffle.projection.weight.data = torch.eye(12)
    expected = torch.nn.functional.pixel_unshuffle(features.permute(0, 3, 1, 2), 2)  # (batch, c * s * s, 2, 3)
    expected = expected.view(2, 3, 4, 2, 3).permute(0, 3, 4, 2, 1).reshape(2, 6, 12)
    torch.testing.assert_close(shuffle.project(features), expected)


@pytest.mark.parametrize("choice", KINDS, ids=str)
def test_the_start_depends_on_seed_and_widths_alone(choice):
    before = torch.get_rng_state()
    first = make(choice, (14, 14), seed=1)
    assert torch.equal(torch.get_rng_state(), before)  # left where it was,
    torch.rand(3)
    option = None if choice.option is None else 1
    again = make(Choice(choice.kind, option or choice.option), (28, 28), seed=1)
    for name, value in first.state_dict().items():
        if again.state_dict()[name].shape == value.shape:
            assert torch.equal(again.state_dict()[name], value)  # and never read

    def matrix(connector: torch.nn.Module) -> torch.Tensor:
        """Of its first linear layer, which a norm may stand before."""
        return next(parameter for parameter in connector.parameters() if parameter.ndim == 2)

    weight = matrix(first)
    assert not torch.equal(matrix(make(choice, (14, 14), seed=2)), weight)
    wider = matrix(make(choice, (14, 14), 7, seed=1))
    assert not torch.equal(wider[:, :6], weight[:, :6])
    assert weight.std().item() == pytest.approx(
        (3 * weight.shape[1]) ** -0.5, rel=0.2
    )  # torch's default for a linear layer


def test_the_newline_has_a_gradient_whatever_is_seen():
    """Or other processes, which saw tiles, would wait for it for ever."""
    connector = make_connector(Choice("linear"), [MapShape((2, 2), 6)], 10, 0, newline=True)
    film = Layout(8, 8, frames=2)
    tokens = connector((Features.of_maps(torch.ones(2, 2, 2, 6)),), Seen((film,), torch.zeros(2, dtype=torch.long)))
    assert tokens.counts == (connector.count(film),) == (8,)
    tokens.values.sum().backward()
    assert connector.newline.grad is not None
    assert not connector.newline.grad.any()
