"""Limits of the names of representations, and which errors point where."""

from __future__ import annotations

import dataclasses

import pytest

from trainers.errors import SpaceError
from trainers.representation import Choice, Part, Piece, Representation, parse, parse_word


def test_records_cannot_be_changed() -> None:
    for kind in (Part, Choice, Representation, Piece):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.is_dataclass(kind)


def test_sides_are_1_to_16384() -> None:
    assert Part("a", 1).size == Choice("concat", 1).option == Choice("pool", 1).option == 1
    assert Part("a", 16_384).size == Choice("concat", 16_384).option == 16_384
    for size in (0, -1, 16_385):
        with pytest.raises(SpaceError, match=f"the size of a is {size}; it must be 1 to 16,384 pixels"):
            Part("a", size)
        with pytest.raises(
            SpaceError,
            match=f"the joining 'concat' has the number {size}, the side of the common grid; it must be 1 to",
        ):
            Choice("concat", size)
    with pytest.raises(SpaceError, match="the connector 'pool' needs a number from 1 up, .*: e.g. 'pool@2'"):
        Choice("pool")
    with pytest.raises(SpaceError, match="the connector 'linear' takes no number, but got 2"):
        Choice("linear", 2)
    with pytest.raises(SpaceError, match="did you mean 'linear'"):
        Choice("liner")
    with pytest.raises(SpaceError, match="'pool@2' is a connector, not a joining; expected concat, normconcat"):
        Representation((Part("a", 2),), Choice("pool", 2))


def test_a_word_alone() -> None:
    assert parse_word("pool@3", "connector") == Choice("pool", 3)
    with pytest.raises(SpaceError, match="expected a framing, not a second connector at character 1, at 'pool@3'"):
        parse_word("pool@3", "framing")
    with pytest.raises(SpaceError, match="expected the end at character 7, at '@2'"):
        parse_word("linear@2", "connector")


def test_defaults() -> None:
    made = Representation((Part("a", 2),))
    assert (made.joining, made.connector) == (Choice("concat", None), Choice("mlp2x", None))
    assert (made.framing, made.fusion) == (Choice("letterbox"), Choice("splice"))
    assert made.parts[0].layer is None


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
        ("a@2|concat|", "expected a framing, a connector or a fusion at character 12 (the end)"),
        ("a@2|concat|?", "expected a framing, a connector or a fusion at character 12, at '?'"),
        ("a@2|concat+b@2", "expected the end at character 11, at '+b@2'"),
        (
            "a@2|poll@2",
            "a joining, a connector or a fusion (did you mean 'pool'?) at character 5, at 'poll@2'",
        ),
        ("a@2|concat|liner", "expected a framing, a connector or a fusion (did you mean 'linear'?) at character 12"),
        ("a@2|normconcaf", "a connector or a fusion (did you mean 'normconcat'?) at character 5"),
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
    pooled = Choice("pool", 3)
    assert parse("a@2|normconcat@4", pooled) == Representation((Part("a", 2),), Choice("normconcat", 4), pooled)
    assert parse("a@2|linear", pooled).connector == Choice("linear")
    assert Representation((Part("a", 2),)).name(pooled) == "a@2|mlp2x"
