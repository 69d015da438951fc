"""Names of vision representations: what a candidate is, and the one grammar that reads and writes it.

    clip-l14@336                                    one encoder at 336 x 336 pixels, at its own default layer
    clip-l14@336:-1                                 the same at its last layer
    clip-l14@224+dinov2-l14@224                     two encoders, their channels joined, on the first one's grid
    clip-l14@336+dinov2-l14@336|normconcat@24       each normalised first, both on a 24 x 24 grid
    clip-l14@336|pool@12                            through a connector that pools to 12 x 12 tokens
    clip-l14@336|anyres                             large images in tiles, as LLaVA-NeXT
    clip-l14@336+dinov2-l14@336|append|linear       a connector for each encoder, their tokens one after the other

    representation = part {"+" part} {"|" word ["@" option]}
    part           = encoder "@" size [":" layer]
    word           = a key of PIECES, at most one of each role
    option         = a number from 1 up, where the word takes one

An encoder's name has lower-case letters, digits, "-", "_" and ".", and starts with a letter or digit. Words may stand
in any order. `str(r)` is the canonical name: it has them in the order of their roles, and leaves defaults out (no
layer, letterbox, concat, mlp2x, splice); `parse(str(r)) == r`. Which encoders exist is the registry's matter
(trainers/encoders), so a name can be read without one. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn

from trainers.errors import SpaceError
from trainers.utils.suggest import suggest

Role = Literal["framing", "joining", "connector", "fusion"]
ROLES: tuple[Role, ...] = ("framing", "joining", "connector", "fusion")


@dataclass(frozen=True)
class Piece:
    """A word of the grammar.

    Attributes:
        role: what it decides: how images become what encoders are shown (framing), how several encoders become one
            (joining), what turns features into tokens (connector), or how these reach the language model (fusion).
        target: "module:class", imported when one is built.
        option: what the number after "@" means; None where the word takes no number.
        required: whether there must be a number.
    """

    role: Role
    target: str
    option: str | None = None
    required: bool = False


_GRID = "the side of the common grid"
PIECES: dict[str, Piece] = {
    "letterbox": Piece("framing", "trainers.framings.letterbox:Letterbox"),
    "squash": Piece("framing", "trainers.framings.squash:Squash"),
    "anyres": Piece("framing", "trainers.framings.anyres:AnyRes", "the largest number of tiles"),
    "native": Piece("framing", "trainers.framings.native:Native", "the number of cells that sides are multiples of"),
    "concat": Piece("joining", "trainers.joinings.concat:Concat", _GRID),
    "normconcat": Piece("joining", "trainers.joinings.normconcat:NormConcat", _GRID),
    "append": Piece("joining", "trainers.joinings.append:Append", _GRID),
    "interleave": Piece("joining", "trainers.joinings.interleave:Interleave", _GRID),
    "linear": Piece("connector", "trainers.connectors.linear:Linear"),
    "mlp2x": Piece("connector", "trainers.connectors.mlp:Mlp2x"),
    "pool": Piece("connector", "trainers.connectors.pool:Pool", "the side of the grid it pools to", required=True),
    "shuffle": Piece(
        "connector", "trainers.connectors.shuffle:Shuffle", "the side of the squares it folds", required=True
    ),
    "splice": Piece("fusion", "trainers.fusions.splice:Splice"),
}


def words(role: Role) -> tuple[str, ...]:
    """The words of a role."""
    return tuple(word for word, piece in PIECES.items() if piece.role == role)


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
class Choice:
    """A word of a representation, with its number.

    Attributes:
        kind: a key of `PIECES`.
        option: the number after "@", where the word takes one.
    """

    kind: str
    option: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in PIECES:
            raise SpaceError(f"{self.kind!r} is no word of a representation; {suggest(self.kind, PIECES)}")
        meaning, which = self.piece.option, f"the {self.piece.role} {self.kind!r}"
        if meaning is None and self.option is not None:
            raise SpaceError(f"{which} takes no number, but got {self.option}")
        if self.option is None and self.piece.required:
            raise SpaceError(f"{which} needs a number from 1 up, {meaning}: e.g. '{self.kind}@2'")
        if self.option is not None and not 1 <= self.option <= _LARGEST:
            raise SpaceError(f"{which} has the number {self.option}, {meaning}; it must be 1 to {_LARGEST:,}")

    @property
    def piece(self) -> Piece:
        """What the word means."""
        return PIECES[self.kind]

    def load(self) -> Any:
        """The class of the word, with its module imported."""
        module, name = self.piece.target.split(":")
        return getattr(importlib.import_module(module), name)

    def __str__(self) -> str:
        return self.kind + ("" if self.option is None else f"@{self.option}")


@dataclass(frozen=True)
class Representation:
    """A candidate: what the language model is shown.

    Attributes:
        parts: the encoders, at least one.
        joining: how several encoders become one.
        connector: what turns features into tokens.
        framing: how an image becomes what the encoders are shown.
        fusion: how the tokens reach the language model.
    """

    parts: tuple[Part, ...]
    joining: Choice = Choice("concat")
    connector: Choice = Choice("mlp2x")
    framing: Choice = Choice("letterbox")
    fusion: Choice = Choice("splice")

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpaceError("a representation needs at least one encoder")
        for role in ROLES:
            if (choice := self.choice(role)).piece.role != role:
                known = ", ".join(words(role))
                raise SpaceError(f"{str(choice)!r} is a {choice.piece.role}, not a {role}; expected {known}")

    def choice(self, role: Role) -> Choice:
        """The word of a role."""
        found: Choice = getattr(self, role)
        return found

    def name(self, *defaults: Choice) -> str:
        """The canonical name in a study.

        Args:
            defaults: words that are left out, as those of the roles that have none here: letterbox, concat, mlp2x,
                splice.
        """
        left_out = DEFAULTS | {choice.piece.role: choice for choice in defaults}
        given = [self.choice(role) for role in ROLES if self.choice(role) != left_out[role]]
        return "|".join(["+".join(map(str, self.parts)), *map(str, given)])

    def __str__(self) -> str:
        return self.name()


DEFAULTS: dict[Role, Choice] = {
    one.default.piece.role: one.default for one in fields(Representation) if isinstance(one.default, Choice)
}


def parse(text: str, *defaults: Choice) -> Representation:
    """Read the name of a representation.

    Args:
        text: the name, as the grammar above describes it.
        defaults: words that are meant where the name has none of their role.

    Raises:
        SpaceError: the text is no such name; the message says what was expected at which character, counted from 1.
    """
    return _Reader(text).representation(defaults)


def parse_word(text: str, role: Role) -> Choice:
    """Read a single word, such as a study's default.

    Raises:
        SpaceError: it is no word of this role.
    """
    reader = _Reader(text)
    choice = reader.word([role])
    reader.end("expected the end")
    return choice


class _Reader:
    """A recursive-descent parser: one method for each rule of the grammar, and one position in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def representation(self, defaults: tuple[Choice, ...]) -> Representation:
        parts = [self.part()]
        while self.sign("+"):
            parts.append(self.part())
        given: dict[Role, Choice] = {}
        while len(given) < len(ROLES) and self.sign("|"):
            choice = self.word([role for role in ROLES if role not in given])
            given[choice.piece.role] = choice
        self.end("expected the end" if "|" in self.text[: self.at] else "expected '+', '|' or the end")
        chosen: dict[Role, Choice] = DEFAULTS | {choice.piece.role: choice for choice in defaults} | given
        return Representation(tuple(parts), **chosen)

    def part(self) -> Part:
        encoder = self.take(_ENCODER, "an encoder's name")
        if not self.sign("@"):
            self.fail(f"expected '@' and the size of {encoder!r} in pixels")
        size = int(self.take(_COUNT, f"the size of {encoder!r} in pixels"))
        layer = int(self.take(_LAYER, "a layer, such as -2")) if self.sign(":") else None
        return Part(encoder, size, layer)

    def word(self, roles: list[Role]) -> Choice:
        """A word of one of the roles, with its number."""
        start = self.at
        expected = _one_of([f"a {role}" for role in roles])
        kind = self.take(_WORD, expected)
        if kind not in PIECES:
            known = [word for role in roles for word in words(role)]
            self.fail_at(start, f"expected {expected} ({suggest(kind, known)})")
        piece = PIECES[kind]
        if piece.role not in roles:
            self.fail_at(start, f"expected {expected}, not a second {piece.role}")
        if piece.option is not None and self.sign("@"):
            return Choice(kind, int(self.take(_COUNT, piece.option)))
        if piece.required:
            self.fail(f"expected '@' and {piece.option}")
        return Choice(kind)

    def end(self, expected: str) -> None:
        if self.at < len(self.text):
            self.fail(expected)

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

    def fail_at(self, place: int, message: str) -> NoReturn:
        self.at = place
        self.fail(message)

    def fail(self, message: str) -> NoReturn:
        rest = self.text[self.at :]
        where = f"at character {self.at + 1}" + (f", at {rest!r}" if rest else " (the end)")
        raise SpaceError(f"cannot read {self.text!r}: {message} {where}")


def _one_of(named: list[str]) -> str:
    return " or ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
