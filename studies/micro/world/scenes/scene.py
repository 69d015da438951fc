"""What is in an image, and how a scene is made from a seed.

A scene holds one to four shapes, or a creature (with up to two small dots that mark a keypoint each) and perhaps a
shape; and perhaps a sign with a word or a digit. Nothing overlaps. Coordinates are pixels; the long side of an image is
96.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from studies.micro.world import names
from studies.micro.world.scenes import fonts
from studies.micro.world.scenes.creatures import GENES, SPECIES
from studies.micro.world.scenes.pose import Box, Pose, extent, placed
from studies.micro.world.seeded_rng import SeededRng

WORLD_VERSION = 2  # raise it with every change of what a seed gives
LONG_SIDE = 96
FRAMES = ((96, 96), (96, 72), (72, 96))  # width, height
_TRIES = 60
_GAP = 2.0  # pixels between neighbours and to the border


@dataclass(frozen=True)
class Shape:
    """A shape.

    Attributes:
        kind: a key of `names.SHAPES`.
        colour: a key of `names.COLOURS`.
        texture: one of `names.TEXTURES`.
        size: a key of `names.SIZES`.
        x: of its centre, in pixels.
        y: of its centre, in pixels.
        angle: in degrees.
    """

    kind: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    angle: float

    @property
    def box(self) -> Box:
        """(x1, y1, x2, y2) around it, in pixels."""
        radius = names.SIZES[self.size]
        return self.x - radius, self.y - radius, self.x + radius, self.y + radius


@dataclass(frozen=True)
class Sign:
    """A plate with a word or a digit.

    Attributes:
        text: the word or digit.
        font: one of `names.FONTS`.
        pixels: size of the font.
        dark: whether it has light letters on a dark plate.
        box: of the plate, in pixels.
    """

    text: str
    font: str
    pixels: int
    dark: bool
    box: Box

    @property
    def x(self) -> float:
        """Of the centre, in pixels."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        """Of the centre, in pixels."""
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Dot:
    """A small dot that marks a keypoint.

    Attributes:
        colour: a key of `names.DOTS`.
        keypoint: its name.
    """

    colour: str
    keypoint: str


@dataclass(frozen=True)
class Creature:
    """An animal.

    Attributes:
        species: a key of `SPECIES`.
        colours: of the parts of its species, in that order.
        genes: decide its proportions and the bend of its limbs.
        pose: where it is and how it is held.
        dots: that mark its keypoints.
    """

    species: str
    colours: tuple[str, ...]
    genes: tuple[float, ...]
    pose: Pose
    dots: tuple[Dot, ...] = ()

    @property
    def parts(self) -> dict[str, str]:
        """The colour of each part."""
        return dict(zip(SPECIES[self.species].parts, self.colours, strict=True))

    @cached_property
    def box(self) -> Box:
        """(x1, y1, x2, y2) around it, in pixels."""
        return extent(placed(self.species, self.genes, self.pose))

    @property
    def x(self) -> float:
        """Of the centre, in pixels."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        """Of the centre, in pixels."""
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """What is in an image.

    Attributes:
        key: names the scene within its seed and split; the choice of words depends on it alone.
        width: in pixels.
        height: in pixels.
        background: a key of `names.BACKGROUNDS`.
        slope: direction of the background's gradient: 0 down, 1 right, 2 up, 3 left.
        shapes: none to four.
        creature: the animal, if there is one.
        sign: the sign, if there is one.
    """

    key: str
    width: int
    height: int
    background: str
    slope: int
    shapes: tuple[Shape, ...]
    creature: Creature | None
    sign: Sign | None


def scene(seed: int, split: str, index: int) -> Scene:
    """Make a scene, which is a pure function of the arguments. No two splits share a scene.

    Args:
        seed: of the world.
        split: of the scenes, any name.
        index: of the scene in the split.
    """
    key = f"{seed}/{split}/{index}"
    rng = SeededRng(WORLD_VERSION, "scene", key)
    width, height = rng.pick(FRAMES)
    has_creature, has_sign = rng.chance(0.5), rng.chance(0.4)
    taken: list[Box] = []
    creature = _grow(rng, rng.pick(tuple(SPECIES)), width, height) if has_creature else None
    if creature:
        taken.append(creature.box)
    sign = _sign(rng, width, height, taken) if has_sign else None
    if sign:
        taken.append(sign.box)
    shapes = _shapes(rng, width, height, taken, few=has_creature)
    return Scene(key, width, height, rng.pick(tuple(names.BACKGROUNDS)), rng.below(4), shapes, creature, sign)


def portrait(seed: int, species: str, index: int) -> Scene:
    """Make a scene of one creature that fills the image, with a shape where there is room.

    Args:
        seed: of the world.
        species: of the creature.
        index: of the portrait among those of the species.
    """
    key = f"{seed}/{species}/{index}"
    rng = SeededRng(WORLD_VERSION, "portrait", key)
    width, height = rng.pick(FRAMES)
    creature = _grow(rng, species, width, height, portrait=True)
    shapes = _shapes(rng, width, height, [creature.box], few=True)
    return Scene(key, width, height, rng.pick(tuple(names.BACKGROUNDS)), rng.below(4), shapes, creature, None)


def _grow(rng: SeededRng, species: str, width: int, height: int, *, portrait: bool = False) -> Creature:
    """A creature of a species in the frame; a portrait fills it, has no dots and may reach over the border."""
    anatomy = SPECIES[species]
    palette = rng.shuffled(tuple(names.COLOURS))[:3]
    colours = tuple(rng.pick(palette) for _ in anatomy.parts)
    genes = tuple(rng.uniform(-1, 1) for _ in range(GENES))
    turned = rng.chance(0.5 if anatomy.mirrored else 0.25)
    angle = rng.uniform(-60, 60) + (180 if turned and not anatomy.mirrored else 0)
    stretch = (rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15))
    still = Pose(0, 0, 1, stretch, angle, turned and anatomy.mirrored)
    x1, y1, x2, y2 = extent(placed(species, genes, still))
    wanted = rng.uniform(58, 84) if portrait else rng.uniform(48, 66)
    room = 1.08 if portrait else 1.0
    scale = min(
        wanted / max(x2 - x1, y2 - y1),
        (width * room - 2 * _GAP) / (x2 - x1),
        (height * room - 2 * _GAP) / (y2 - y1),
    )
    loose_x, loose_y = width - scale * (x2 - x1), height - scale * (y2 - y1)
    out = 6.0 if portrait and rng.chance(0.3) else -_GAP
    x = _within(rng, -out, loose_x + out) - scale * x1
    y = _within(rng, -out, loose_y + out) - scale * y1
    pose = Pose(x, y, scale, stretch, angle, still.mirrored)
    creature = Creature(species, colours, genes, pose)
    return creature if portrait else replace(creature, dots=_dots(rng, creature))


def _within(rng: SeededRng, low: float, high: float) -> float:
    return rng.uniform(low, high) if high > low else (low + high) / 2


def _dots(rng: SeededRng, creature: Creature) -> tuple[Dot, ...]:
    """One or two dots, at keypoints whose answers differ; every answer of the species is as likely as the others."""
    spots = SPECIES[creature.species].spots
    answers = rng.shuffled(sorted(set(spots.values())))[: 1 + rng.chance(0.5)]
    points = [rng.pick([point for point, part in spots.items() if part == answer]) for answer in answers]
    return tuple(map(Dot, rng.shuffled(tuple(names.DOTS)), points))


def _place(rng: SeededRng, width: int, height: int, size: tuple[float, float], taken: list[Box]) -> Box | None:
    """A free place for a box of a size, None where none was found."""
    if size[0] + 2 * _GAP > width or size[1] + 2 * _GAP > height:
        return None
    for _ in range(_TRIES):
        x = rng.uniform(_GAP, width - _GAP - size[0])
        y = rng.uniform(_GAP, height - _GAP - size[1])
        box = (x, y, x + size[0], y + size[1])
        if not any(_near(box, other) for other in taken):
            return box
    return None


def _near(a: Box, b: Box) -> bool:
    return a[0] < b[2] + _GAP and b[0] < a[2] + _GAP and a[1] < b[3] + _GAP and b[1] < a[3] + _GAP


def _sign(rng: SeededRng, width: int, height: int, taken: list[Box]) -> Sign | None:
    """A word or a digit on a plate. Letters are 13 to 16 pixels tall, digits 15 to 22, smaller if room is short."""
    digit = rng.chance(0.4)
    text = rng.pick(names.DIGITS if digit else names.WORDS)
    font, dark = rng.pick(names.FONTS), rng.chance(0.5)
    pixels = 21 + rng.below(10) if digit else 18 + rng.below(5)
    while pixels >= 12:
        left, top, right, bottom = fonts.extent(text.upper(), font, pixels)
        box = _place(rng, width, height, (right - left + 7, bottom - top + 7), taken)
        if box:
            return Sign(text, font, pixels, dark, box)
        pixels -= 2
    return None


def _shapes(rng: SeededRng, width: int, height: int, taken: list[Box], *, few: bool) -> tuple[Shape, ...]:
    """Shapes of their own, or a crowd of one kind or one colour, which makes high counts as likely as low ones."""
    count = rng.below(2) if few else 1 + rng.weighted(range(4), (2, 3, 3, 4))
    crowd = rng.weighted(("none", "kind", "colour"), (0.4, 0.3, 0.3))
    kind, colour = rng.pick(tuple(names.SHAPES)), rng.pick(tuple(names.COLOURS))
    shapes: list[Shape] = []
    for _ in range(count):
        own_kind = kind if crowd == "kind" and rng.chance(0.85) else rng.pick(tuple(names.SHAPES))
        own_colour = colour if crowd == "colour" and rng.chance(0.85) else rng.pick(tuple(names.COLOURS))
        texture, angle = rng.pick(names.TEXTURES), rng.uniform(-15, 15)
        for size in ("large", "small") if rng.chance(0.5) else ("small",):
            side = 2 * names.SIZES[size]
            box = _place(rng, width, height, (side, side), taken)
            if box:
                taken.append(box)
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                shapes.append(Shape(own_kind, own_colour, texture, size, x, y, angle))
                break
    return tuple(shapes)
