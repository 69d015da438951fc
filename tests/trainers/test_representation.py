"""Names of representations: what is written can be read, and what cannot be read is pointed at."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from trainers.errors import SpaceError
from trainers.representation import PIECES, Choice, Part, Representation, parse, words

PARTS = [Part("clip-l14", 336), Part("dinov2-l14", 224, -1), Part("pe_core.v1", 1, 3), Part("3d", 14, -24)]


def choices(role):
    """Every word of a role, with and without its number where it may have one."""
    for word in words(role):
        piece = PIECES[word]
        yield from [] if piece.required else [Choice(word)]
        yield from [] if piece.option is None else [Choice(word, 12)]


JOININGS, CONNECTORS = [*choices("joining")], [*choices("connector")]
FRAMINGS, FUSIONS = [*choices("framing")], [*choices("fusion")]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("connector", CONNECTORS, ids=str)
def test_every_name_reads_back(connector, framing):
    chains = [parts for n in (1, 2, 3) for parts in itertools.permutations(PARTS, n)]
    for parts, *pieces in itertools.product(chains[::7], JOININGS, CONNECTORS, FRAMINGS, FUSIONS):
        representation = Representation(parts, *pieces)
        assert parse(representation.name(connector, framing), connector, framing) == representation
        assert parse(str(representation)) == representation


def test_words_may_stand_in_any_order():
    first = ["squash", "concat@3", "pool@2", "splice"]
    assert {str(parse("|".join(["a@2", *order]))) for order in itertools.permutations(first)} == {
        "a@2|squash|concat@3|pool@2"
    }


def test_names_leave_defaults_out():
    assert str(parse("clip-l14@336|concat|mlp2x")) == "clip-l14@336"
    assert str(parse("a@2+b@3:-2|normconcat@16|shuffle@2")) == "a@2+b@3:-2|normconcat@16|shuffle@2"
    pooled = parse("a@2", Choice("pool", 8))
    assert str(pooled) == "a@2|pool@8"
    assert pooled.name(Choice("pool", 8)) == "a@2"
    assert len({parse("a@2"), parse("a@2|mlp2x"), parse("a@2|concat"), parse("a@2:-2")}) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip-l14@336+", "expected an encoder's name at character 14 (the end)"),
        ("", "expected an encoder's name at character 1 (the end)"),
        ("CLIP@336", "expected an encoder's name at character 1, at 'CLIP@336'"),
        ("clip", "expected '@' and the size of 'clip' in pixels at character 5 (the end)"),
        ("clip@0336", "expected the size of 'clip' in pixels at character 6, at '0336'"),
        ("clip@336:two", "expected a layer, such as -2 at character 10, at 'two'"),
        ("clip@336:-0", "expected a layer, such as -2 at character 10, at '-0'"),
        ("clip@336 + a@2", "expected '+', '|' or the end at character 9, at ' + a@2'"),
        ("clip@336|", "expected a framing, a joining, a connector or a fusion at character 10 (the end)"),
        ("clip@336|mpl2x", "(did you mean 'mlp2x'?) at character 10, at 'mpl2x'"),
        ("clip@336|concat|concat", "expected a framing, a connector or a fusion, not a second joining at character 17"),
        ("clip@336|letterbox|squash", "not a second framing at character 20, at 'squash'"),
        ("clip@336|nothing", f"(known: {', '.join(PIECES)}) at character 10"),
        ("clip@336|concat@|linear", "expected the side of the common grid at character 17, at '|linear'"),
        ("clip@336|pool", "expected '@' and the side of the grid it pools to at character 14 (the end)"),
        ("clip@336|linear@2", "expected the end at character 16, at '@2'"),
        ("a@2|squash|concat|linear|splice|more", "expected the end at character 32, at '|more'"),
    ],
)
def test_errors_point_at_the_character(text, message):
    with pytest.raises(SpaceError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"cannot read {text!r}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Part("Clip", 224),
        lambda: Part("a+b", 224),
        lambda: Part("clip", 0),
        lambda: Choice("sum"),
        lambda: Choice("concat", 0),
        lambda: Representation((Part("a", 2),), joining=Choice("linear")),
        lambda: Choice("mlp"),
        lambda: Choice("pool"),
        lambda: Choice("linear", 2),
        lambda: Representation(()),
    ],
)
def test_what_has_no_readable_name_cannot_be_made(build):
    with pytest.raises(SpaceError):
        build()


def test_names_need_no_torch():
    code = "import sys, trainers.representation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
