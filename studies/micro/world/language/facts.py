"""What is true in a scene: how its things can be named, where they are, and their relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.micro.world.scenes.scene import LONG_SIDE, Creature, Scene, Shape, Sign

_CLEAR = 1.6  # a direction counts where one axis is this much longer than the other
_APART = 10.0  # pixels

_NAMINGS: tuple[tuple[str, ...], ...] = (  # of a shape, from short to long
    (),
    ("colour",),
    ("texture",),
    ("size",),
    ("size", "colour"),
    ("colour", "texture"),
    ("size", "texture"),
    ("size", "colour", "texture"),
)


@dataclass(frozen=True)
class Thing:
    """Something in a scene that one phrase names.

    Attributes:
        name: the phrase, without "the".
        item: the thing itself.
    """

    name: str
    item: Shape | Creature | Sign


def phrase(shape: Shape, attributes: Sequence[str], kind: str | None = None) -> str:
    """A phrase such as "large red striped circle".

    Args:
        shape: the shape.
        attributes: which of its size, colour and texture to tell.
        kind: the noun; the shape's own kind where it is not given.
    """
    words = [getattr(shape, attribute) for attribute in ("size", "colour", "texture") if attribute in attributes]
    return " ".join([*words, kind or shape.kind])


def naming(scene: Scene, shape: Shape, without: str = "") -> str | None:
    """The shortest phrase that names a shape and no other one.

    Args:
        scene: with the shape.
        shape: to be named.
        without: an attribute that the phrase must not tell. Without "kind" the phrase ends with "shape".

    Returns:
        The phrase; None where there is none.
    """
    for attributes in _NAMINGS:
        if without in attributes or (without == "kind" and not attributes):
            continue
        told = attributes if without == "kind" else (*attributes, "kind")
        alike = [s for s in scene.shapes if all(getattr(s, a) == getattr(shape, a) for a in told)]
        if len(alike) == 1:
            return phrase(shape, attributes, "shape" if without == "kind" else None)
    return None


def things(scene: Scene) -> list[Thing]:
    """Everything in a scene that can be named by a phrase of its own."""
    named = [(naming(scene, shape), shape) for shape in scene.shapes]
    found = [Thing(name, shape) for name, shape in named if name]
    if scene.creature:
        found.append(Thing(scene.creature.species, scene.creature))
    if scene.sign:
        found.append(Thing("sign", scene.sign))
    return found


def direction(item: Shape | Creature | Sign, other: Shape | Creature | Sign) -> str | None:
    """Where an item is, seen from another one: left, right, above or below; None where that is not clear."""
    dx, dy = item.x - other.x, item.y - other.y
    if abs(dx) > max(_CLEAR * abs(dy), _APART):
        return "left" if dx < 0 else "right"
    if abs(dy) > max(_CLEAR * abs(dx), _APART):
        return "above" if dy < 0 else "below"
    return None


def relations(scene: Scene) -> list[tuple[Thing, str, Thing]]:
    """All (a, direction, b) where a is clearly in that direction from b, each pair once."""
    found, all_things = [], things(scene)
    for i, a in enumerate(all_things):
        for b in all_things[i + 1 :]:
            towards = direction(a.item, b.item)
            if towards:
                found.append((a, towards, b))
    return found


def place(scene: Scene, item: Shape | Creature | Sign) -> str:
    """Where an item is in the image, as a key of `grammar.PLACES`."""
    u = (item.x - scene.width / 2) / (LONG_SIDE / 2)
    v = (item.y - scene.height / 2) / (LONG_SIDE / 2)
    if max(abs(u), abs(v)) < 0.2:
        return "middle"
    side, height = "left" if u < 0 else "right", "top" if v < 0 else "bottom"
    if abs(u) > 2 * abs(v):
        return side
    return height if abs(v) > 2 * abs(u) else f"{height} {side}"
