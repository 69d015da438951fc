"""Names of vision representations: what a candidate is, and the one grammar that reads and writes it.

    clip-l14@336                                    one encoder at 336 x 336 pixels, at its own default layer
    clip-l14@336:-1                                 the same at its last layer
    clip-l14@224+dinov2-l14@224                     two encoders, their channels joined, on the first one's grid
    clip-l14@336+dinov2-l14@336|normconcat@24       each normalised first, both on a 24 x 24 grid
    clip-l14@336|pool@12                            through a connector that pools to 12 x 12 tokens

    representation = part {"+" part} ["|" joining] ["|" connector]
    part           = encoder "@" size [":" layer]
    joining        = ("concat" | "normconcat") ["@" grid side]
    connector      = a key of CONNECTORS ["@" its option]

An encoder's name has lower-case letters, digits, "-", "_" and ".", and starts with a letter or digit. `str(r)` is the
canonical name: it leaves defaults out (no layer, plain concat, mlp2x), and `parse(str(r)) == r`. Which encoders exist
is the registry's matter (trainers/encoders), so a name can be read without one. Nothing here imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from trainers.errors import SpaceError
from trainers.utils.suggest import suggest


@dataclass(frozen=True)
class ConnectorKind:
    """A kind of connector.

    Attributes:
        target: "module:class" of the connector, imported when one is built.
        option: what the number after "@" means; None where the kind takes no number.
    """

    target: str
    option: str | None = None


CONNECTORS = MappingProxyType(
    {
        "linear": ConnectorKind("trainers.connectors.linear:Linear"),
        "mlp2x": ConnectorKind("trainers.connectors.mlp:Mlp2x"),
        "pool": ConnectorKind("trainers.connectors.pool:Pool", option="the side of the grid it pools to"),
        "shuffle": ConnectorKind("trainers.connectors.shuffle:Shuffle", option="the side of the squares it folds"),
    }
)
JOININGS = ("concat", "normconcat")

_ENCODER = re.compile(r"[a-z0-9][a-z0-9._-]*")
_WORD = re.compile(r"[a-z0-9_-]+")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_LAYER = re.compile(r"0|-?[1-9][0-9]{0,8}")
_LARGEST = 16_384  # of a side: far above any encoder's, and what it asks for can still be refused by who makes it


@dataclass(frozen=True)
class Part:
    """One encoder at one size.

    Attributes:
        encoder: its name in the registry.
        size: side of the square image that it is shown, in pixels.
        layer: counted as in `EncoderSpec`; None is the encoder's default.
    """

    encoder: str
    size: int
    layer: int | None = None

    def __post_init__(self) -> None:
        if not _ENCODER.fullmatch(self.encoder):
            raise SpaceError(
                f"{self.encoder!r} cannot be an encoder's name: it needs lower-case letters, digits, '-', '_' and '.', "
                "and a letter or digit first"
            )
        if not 1 <= self.size <= _LARGEST:
            raise SpaceError(f"the size of {self.encoder} is {self.size}; it must be 1 to {_LARGEST:,} pixels")

    def __str__(self) -> str:
        return f"{self.encoder}@{self.size}" + ("" if self.layer is None else f":{self.layer}")


@dataclass(frozen=True)
class Joining:
    """How the channels of several encoders become one map.

    Attributes:
        kind: "concat" joins them as they are; "normconcat" first gives each encoder's feature unit length at every
            location.
        grid: side of the common grid; None is the first part's grid.
    """

    kind: str = "concat"
    grid: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in JOININGS:
            raise SpaceError(f"{self.kind!r} is not a joining; expected {_one_of(JOININGS)}")
        if self.grid is not None and not 1 <= self.grid <= _LARGEST:
            raise SpaceError(f"the common grid of {self.kind!r} is {self.grid}; it must be a side of 1 to {_LARGEST:,}")

    def __str__(self) -> str:
        return self.kind + ("" if self.grid is None else f"@{self.grid}")


@dataclass(frozen=True)
class ConnectorChoice:
    """The connector of a representation.

    Attributes:
        kind: a key of `CONNECTORS`.
        option: the number after "@", where the kind takes one.
    """

    kind: str = "mlp2x"
    option: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in CONNECTORS:
            raise SpaceError(f"{self.kind!r} is not a connector; {suggest(self.kind, CONNECTORS)}")
        meaning = CONNECTORS[self.kind].option
        if meaning is None and self.option is not None:
            raise SpaceError(f"the connector {self.kind!r} takes no number, but got {self.option}")
        if meaning is not None and (self.option is None or self.option < 1):
            raise SpaceError(f"the connector {self.kind!r} needs a number from 1 up, {meaning}: e.g. '{self.kind}@2'")

    def __str__(self) -> str:
        return self.kind + ("" if self.option is None else f"@{self.option}")


DEFAULT_JOINING = Joining()
DEFAULT_CONNECTOR = ConnectorChoice()


@dataclass(frozen=True)
class Representation:
    """A candidate: what the language model is shown.

    Attributes:
        parts: the encoders, at least one.
        joining: how the encoders' channels become one map.
        connector: what turns the map into tokens.
    """

    parts: tuple[Part, ...]
    joining: Joining = DEFAULT_JOINING
    connector: ConnectorChoice = DEFAULT_CONNECTOR

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpaceError("a representation needs at least one encoder")

    def name(self, default_connector: ConnectorChoice = DEFAULT_CONNECTOR) -> str:
        """The canonical name in a study. The study's default connector is left out of it."""
        fields = ["+".join(map(str, self.parts))]
        if self.joining != DEFAULT_JOINING:
            fields.append(str(self.joining))
        if self.connector != default_connector:
            fields.append(str(self.connector))
        return "|".join(fields)

    def __str__(self) -> str:
        return self.name()


def parse(text: str, connector: ConnectorChoice = DEFAULT_CONNECTOR) -> Representation:
    """Read the name of a representation.

    Args:
        text: the name, as the grammar above describes it.
        connector: the connector that is meant where the name has none.

    Raises:
        SpaceError: the text is no such name; the message says what was expected at which character, counted from 1.
    """
    return _Reader(text).representation(connector)


class _Reader:
    """A recursive-descent parser: one method for each rule of the grammar, and one position in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def representation(self, connector: ConnectorChoice) -> Representation:
        parts = [self.part()]
        while self.sign("+"):
            parts.append(self.part())
        joining = DEFAULT_JOINING
        if self.sign("|"):
            expected = "a joining or a connector"
            if (word := self.peek(_WORD)) in JOININGS:
                joining = self.joining()
                if self.sign("|"):
                    expected = "a connector"
                    word = self.peek(_WORD)
                else:
                    word = None
            elif word is None:
                self.fail(f"expected {expected}")
            if word is not None or expected == "a connector":
                connector = self.connector(expected)
        if self.at < len(self.text):
            self.fail("expected the end" if "|" in self.text[: self.at] else "expected '+', '|' or the end")
        return Representation(tuple(parts), joining, connector)

    def part(self) -> Part:
        encoder = self.take(_ENCODER, "an encoder's name")
        if not self.sign("@"):
            self.fail(f"expected '@' and the size of {encoder!r} in pixels")
        size = int(self.take(_COUNT, f"the size of {encoder!r} in pixels"))
        layer = int(self.take(_LAYER, "a layer, such as -2")) if self.sign(":") else None
        return Part(encoder, size, layer)

    def joining(self) -> Joining:
        kind = self.take(_WORD, "a joining")
        return Joining(kind, int(self.take(_COUNT, "the side of the common grid")) if self.sign("@") else None)

    def connector(self, expected: str) -> ConnectorChoice:
        start = self.at
        kind = self.take(_WORD, expected)
        if kind not in CONNECTORS:
            self.at = start
            known = [*JOININGS, *CONNECTORS] if "joining" in expected else [*CONNECTORS]
            self.fail(f"expected {expected} ({suggest(kind, known)})")
        meaning = CONNECTORS[kind].option
        if meaning is None:
            return ConnectorChoice(kind)
        if not self.sign("@"):
            self.fail(f"expected '@' and {meaning}")
        return ConnectorChoice(kind, int(self.take(_COUNT, meaning)))

    def sign(self, sign: str) -> bool:
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) if found else 0
        return found

    def peek(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.text, self.at)
        return None if match is None else match.group()

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        word = self.peek(pattern)
        if word is None:
            self.fail(f"expected {expected}")
        self.at += len(word)
        return word

    def fail(self, message: str) -> NoReturn:
        rest = self.text[self.at :]
        where = f"at character {self.at + 1}" + (f", at {rest!r}" if rest else " (the end)")
        raise SpaceError(f"cannot read {self.text!r}: {message} {where}")


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(map(repr, words))
