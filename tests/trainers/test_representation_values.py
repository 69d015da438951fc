"""Limits of the names of representations, and which errors point where."""

from __future__ import annotations

import dataclasses

import pytest

from trainers import representation
from trainers.errors import SpaceError
from trainers.representation import CONNECTORS, ConnectorChoice, Joining, Part, Representation, parse


def test_records_cannot_be_changed() -> None:
    for kind in (Part, Joining, ConnectorChoice, Representation, representation.ConnectorKind):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.is_dataclass(kind)


def test_sides_are_1_to_16384() -> None:
    assert Part("a", 1).size == Joining("concat", 1).grid == ConnectorChoice("pool", 1).option == 1
    assert Part("a", 16_384).size == Joining("concat", 16_384).grid == 16_384
    for size in (0, -1, 16_385):
        with pytest.raises(SpaceError, match=f"the size of a is {size}; it must be 1 to 16,384 pixels"):
            Part("a", size)
        with pytest.raises(
            SpaceError, match=f"the common grid of 'concat' is {size}; it must be a side of 1 to 16,384"
        ):
            Joining("concat", size)
    with pytest.raises(SpaceError, match="needs a number from 1 up"):
        ConnectorChoice("pool", 0)
    with pytest.raises(SpaceError, match="'sum' is not a joining; expected 'concat' or 'normconcat'"):
        Joining("sum")
    with pytest.raises(SpaceError, match="did you mean 'linear'"):
        ConnectorChoice("liner")


def test_defaults() -> None:
    made = Representation((Part("a", 2),))
    assert (made.joining, made.connector) == (Joining("concat", None), ConnectorChoice("mlp2x", None))
    assert made.parts[0].layer is None
    assert [(kind, entry.option is None) for kind, entry in CONNECTORS.items()] == [
        ("linear", True),
        ("mlp2x", True),
        ("pool", False),
        ("shuffle", False),
    ]


def test_numbers_are_read_to_nine_digits_and_layers_may_be_0() -> None:
    assert parse("a@2:0").parts == (Part("a", 2, 0),)
    assert parse("a@2:-999999999").parts[0].layer == -999_999_999
    assert str(Part("a", 2, 0)) == "a@2:0"
    with pytest.raises(SpaceError, match="expected '\\+', '\\|' or the end at character 14, at '0'"):
        parse("a@2:1234567890")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a@2|normconcat@", "expected the side of the common grid at character 16 (the end)"),
        ("a@2|normconcat@3x", "expected the end at character 17, at 'x'"),
        ("a@2|concat|", "expected a connector at character 12 (the end)"),
        ("a@2|concat|?", "expected a connector at character 12, at '?'"),
        ("a@2|concat+b@2", "expected the end at character 11, at '+b@2'"),
        ("a@2|poll@2", "expected a joining or a connector (did you mean 'pool'?) at character 5, at 'poll@2'"),
        ("a@2|concat|normconcaf", f"expected a connector (known: {', '.join(CONNECTORS)}) at character 12"),
        ("a@2|normconcaf", "expected a joining or a connector (did you mean 'normconcat'?) at character 5"),
        ("a@2|pool@0", "expected the side of the grid it pools to at character 10, at '0'"),
        ("a@2++b@2", "expected an encoder's name at character 5, at '+b@2'"),
        ("a@2:", "expected a layer, such as -2 at character 5 (the end)"),
    ],
)
def test_where_reading_stops(text: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_name_without_a_connector_takes_the_study_s() -> None:
    pooled = ConnectorChoice("pool", 3)
    assert parse("a@2|normconcat@4", pooled) == Representation((Part("a", 2),), Joining("normconcat", 4), pooled)
    assert parse("a@2|linear", pooled).connector == ConnectorChoice("linear")
    assert Representation((Part("a", 2),)).name(pooled) == "a@2|mlp2x"
