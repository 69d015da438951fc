"""The world's language: lower case, with blanks between words and marks. All wording is here, as data.

Every text is one of these patterns with its slots filled from the closed sets of `names` and `creatures`, so the
vocabulary follows from both.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

from studies.micro.world import names
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.seeded_rng import SeededRng

QUESTIONS: dict[str, dict[str, str]] = {  # kind, template, wording
    "attribute": {
        "colour": "what colour is the {thing} ?",
        "shape": "what is the {thing} ?",
        "texture": "which texture has the {thing} ?",
        "size": "is the {thing} large or small ?",
        "animal": "which animal is there ?",
        "background": "what colour is the background ?",
    },
    "count": {
        "shapes": "how many shapes are there ?",
        "kind": "how many {things} are there ?",
        "colour": "how many {colour} shapes are there ?",
        "texture": "how many {texture} shapes are there ?",
    },
    "relation": {
        "direction": "where is the {thing} seen from the {other} ?",
        "neighbour": "what shape is {direction} the {thing} ?",
        "side": "on which side of the image is the {thing} ?",
    },
    "existence": {
        "coloured": "is there {a} {colour} {kind} ?",
        "textured": "is there {a} {texture} {kind} ?",
        "colour": "is there {a} {colour} shape ?",
        "species": "is there {a} {species} ?",
        "animal": "is there an animal ?",
        "sign": "is there a sign ?",
    },
    "part": {
        "dot": "what part is at the {dot} dot ?",
        "colour": "what colour is the {part} ?",
        "side": "is the {dot} dot at the {one} or the {other} {part} ?",
    },
    "reading": {
        "word": "which word is on the sign ?",
        "digit": "which digit is on the sign ?",
    },
}

WORDING: dict[str, tuple[str, ...]] = {
    "scene": (
        "{things} on a {background} background .",
        "a {background} image of {things} .",
        "here we see {things} .",
    ),
    "second": ("the background is {background} .", "all of it is on {background} .", "", ""),
    "relation": ("the {thing} is {direction} the {other} .", "{direction} the {other} is the {thing} ."),
    "position": ("the {thing} is {place} .", "{place} is the {thing} ."),
    "second colour": ("its {part} is {colour} .", "the {species} has {a} {colour} {part} ."),
    "sign": ("a sign that says {text}", "the {sort} {text} on a sign", "a sign with the {sort} {text}"),
    "nothing": ("an empty image",),
    # the complete description
    "background fact": ("the background is {background} .", "it is on a {background} background ."),
    "count fact": ("there are {number} shapes .", "{number} shapes are there ."),
    "single fact": ("there is one shape .", "one shape is there ."),
    "no shapes": ("there are zero shapes .",),
    "shape fact": ("{a} {shape} is {place} .", "{place} is {a} {shape} ."),
    "animal fact": ("there is {a} {species} {place} .", "the animal is {a} {species} {place} ."),
    "part fact": ("its {part} is {colour} .", "the {part} is {colour} ."),
    "dot fact": ("a {dot} dot is at its {spot} .", "the {dot} dot is at the {spot} ."),
    "sign fact": ("a sign {place} has the {sort} {text} .", "there is a sign {place} with the {sort} {text} ."),
    "no animal": ("there is no animal .",),
    "no sign": ("there is no sign .",),
}
PLACES: dict[str, str] = {
    "left": "at the left",
    "right": "at the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "top left": "at the top left",
    "top right": "at the top right",
    "bottom left": "at the bottom left",
    "bottom right": "at the bottom right",
    "middle": "in the middle",
}
DIRECTIONS: dict[str, str] = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE: dict[str, str] = {"left": "right", "right": "left", "above": "below", "below": "above"}


def say(rng: SeededRng, pattern: str, **slots: str) -> str:
    """Write one wording of a pattern.

    Args:
        rng: chooses the wording.
        pattern: a key of `WORDING`.
        slots: what is filled in; `{a}` and `{a2}` become the article of the word that follows.
    """
    return fill(rng.pick(WORDING[pattern]), **slots)


def fill(wording: str, **slots: str) -> str:
    """A wording with its slots filled, and every `{a}` as "a" or "an" for the word after it."""
    words = wording.replace("{a2}", "{a}").format(**slots, a="{a}").split()
    for i, word in enumerate(words):
        if word == "{a}":
            words[i] = article(words[i + 1])
    return " ".join(words)


def article(word: str) -> str:
    """ "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def listing(phrases: list[str]) -> str:
    """ "one , two and three"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]}"


def vocabulary() -> list[str]:
    """Every word and mark that a text of the world can have, sorted."""
    return sorted({word for text in _texts() for word in text.split()})


def _texts() -> Iterator[str]:
    for pattern in (*(q for group in QUESTIONS.values() for q in group.values()), *sum(WORDING.values(), ())):
        yield " ".join(literal for literal, *_ in string.Formatter().parse(pattern))
    yield from (*PLACES.values(), *DIRECTIONS.values())
    yield from (*names.COLOURS, *names.BACKGROUNDS, *names.SHAPES, *names.SHAPES.values(), *names.TEXTURES)
    yield from (*names.SIZES, *names.NUMBERS, *names.DIGITS, *names.WORDS, *names.DOTS, *names.SIDES, *OPPOSITE)
    for name, species in SPECIES.items():
        yield from (name, *species.parts, *species.spots, *species.spots.values())
    yield "a an and , shape yes no word digit"
