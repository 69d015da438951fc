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
from studies.micro.world.seeded_rng import Dice

WORLD_VERSION = 2  # raise it with every change of what a seed gives
LONG_SIDE = 96
FRAMES = ((96, 96), (96, 72), (72, 96))  # width, height
_TRIES = 60
_GAP = 2.0  # pixels between neighbours and to the border


@dataclass(frozen=True)
class Shape:
    """angle: in degrees."""

    kind: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    angle: float

    @property
    def box(self) -> Box:
        radius = names.SIZES[self.size]
        return self.x - radius, self.y - radius, self.x + radius, self.y + radius


@dataclass(frozen=True)
class Sign:
    """pixels: size of the font.  dark: light letters on a dark plate."""

    text: str
    font: str
    pixels: int
    dark: bool
    box: Box

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Dot:
    """A mark of a colour of `names.DOTS` on a keypoint."""

    colour: str
    keypoint: str


@dataclass(frozen=True)
class Creature:
    """colours: of the parts of its species, in that order.  genes: its proportions and the bend of its limbs."""

    species: str
    colours: tuple[str, ...]
    genes: tuple[float, ...]
    pose: Pose
    dots: tuple[Dot, ...] = ()

    @property
    def parts(self) -> dict[str, str]:
        """Part to colour."""
        return dict(zip(SPECIES[self.species].parts, self.colours, strict=True))

    @cached_property
    def box(self) -> Box:
        return extent(placed(self.species, self.genes, self.pose))

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """key: names the scene in its seed and split; the choice of words depends on it and on nothing else."""

    key: str
    width: int
    height: int
    background: str
    slope: int  # of the gradient: 0 down, 1 right, 2 up, 3 left
    shapes: tuple[Shape, ...]
    creature: Creature | None
    sign: Sign | None


def scene(seed: int, split: str, index: int) -> Scene:
    """Scene number `index` of a split: a pure function of its arguments. No two splits share a scene."""
    key = f"{seed}/{split}/{index}"
    dice = Dice(WORLD_VERSION, "scene", key)
    width, height = dice.pick(FRAMES)
    has_creature, has_sign = dice.chance(0.5), dice.chance(0.4)
    taken: list[Box] = []
    creature = _grow(dice, dice.pick(tuple(SPECIES)), width, height) if has_creature else None
    if creature:
        taken.append(creature.box)
    sign = _sign(dice, width, height, taken) if has_sign else None
    if sign:
        taken.append(sign.box)
    shapes = _shapes(dice, width, height, taken, few=has_creature)
    return Scene(key, width, height, dice.pick(tuple(names.BACKGROUNDS)), dice.below(4), shapes, creature, sign)


def portrait(seed: int, species: str, index: int) -> Scene:
    """Portrait number `index` of a species: one creature that fills the image, where there is room a shape or two."""
    key = f"{seed}/{species}/{index}"
    dice = Dice(WORLD_VERSION, "portrait", key)
    width, height = dice.pick(FRAMES)
    creature = _grow(dice, species, width, height, portrait=True)
    shapes = _shapes(dice, width, height, [creature.box], few=True)
    return Scene(key, width, height, dice.pick(tuple(names.BACKGROUNDS)), dice.below(4), shapes, creature, None)


def _grow(dice: Dice, species: str, width: int, height: int, *, portrait: bool = False) -> Creature:
    """A creature of a species in the frame; a portrait fills it, has no dots and may reach over the border."""
    anatomy = SPECIES[species]
    palette = dice.shuffled(tuple(names.COLOURS))[:3]
    colours = tuple(dice.pick(palette) for _ in anatomy.parts)
    genes = tuple(dice.uniform(-1, 1) for _ in range(GENES))
    turned = dice.chance(0.5 if anatomy.mirrored else 0.25)
    angle = dice.uniform(-60, 60) + (180 if turned and not anatomy.mirrored else 0)
    stretch = (dice.uniform(0.85, 1.15), dice.uniform(0.85, 1.15))
    still = Pose(0, 0, 1, stretch, angle, turned and anatomy.mirrored)
    x1, y1, x2, y2 = extent(placed(species, genes, still))
    wanted = dice.uniform(58, 84) if portrait else dice.uniform(48, 66)
    room = 1.08 if portrait else 1.0
    scale = min(
        wanted / max(x2 - x1, y2 - y1),
        (width * room - 2 * _GAP) / (x2 - x1),
        (height * room - 2 * _GAP) / (y2 - y1),
    )
    loose_x, loose_y = width - scale * (x2 - x1), height - scale * (y2 - y1)
    out = 6.0 if portrait and dice.chance(0.3) else -_GAP
    x = _within(dice, -out, loose_x + out) - scale * x1
    y = _within(dice, -out, loose_y + out) - scale * y1
    pose = Pose(x, y, scale, stretch, angle, still.mirrored)
    creature = Creature(species, colours, genes, pose)
    return creature if portrait else replace(creature, dots=_dots(dice, creature))


def _within(dice: Dice, low: float, high: float) -> float:
    return dice.uniform(low, high) if high > low else (low + high) / 2


def _dots(dice: Dice, creature: Creature) -> tuple[Dot, ...]:
    """One or two dots, at keypoints whose answers differ; every answer of the species is as likely as the others."""
    spots = SPECIES[creature.species].spots
    answers = dice.shuffled(sorted(set(spots.values())))[: 1 + dice.chance(0.5)]
    points = [dice.pick([point for point, part in spots.items() if part == answer]) for answer in answers]
    return tuple(map(Dot, dice.shuffled(tuple(names.DOTS)), points))


def _place(dice: Dice, width: int, height: int, size: tuple[float, float], taken: list[Box]) -> Box | None:
    """A free place for a box of a size, None where none was found."""
    if size[0] + 2 * _GAP > width or size[1] + 2 * _GAP > height:
        return None
    for _ in range(_TRIES):
        x = dice.uniform(_GAP, width - _GAP - size[0])
        y = dice.uniform(_GAP, height - _GAP - size[1])
        box = (x, y, x + size[0], y + size[1])
        if not any(_near(box, other) for other in taken):
            return box
    return None


def _near(a: Box, b: Box) -> bool:
    return a[0] < b[2] + _GAP and b[0] < a[2] + _GAP and a[1] < b[3] + _GAP and b[1] < a[3] + _GAP


def _sign(dice: Dice, width: int, height: int, taken: list[Box]) -> Sign | None:
    """A word or a digit on a plate. Letters are 13 to 16 pixels tall, digits 15 to 22, smaller if room is short."""
    digit = dice.chance(0.4)
    text = dice.pick(names.DIGITS if digit else names.WORDS)
    font, dark = dice.pick(names.FONTS), dice.chance(0.5)
    pixels = 21 + dice.below(10) if digit else 18 + dice.below(5)
    while pixels >= 12:
        left, top, right, bottom = fonts.extent(text.upper(), font, pixels)
        box = _place(dice, width, height, (right - left + 7, bottom - top + 7), taken)
        if box:
            return Sign(text, font, pixels, dark, box)
        pixels -= 2
    return None


def _shapes(dice: Dice, width: int, height: int, taken: list[Box], *, few: bool) -> tuple[Shape, ...]:
    """Shapes of their own, or a crowd of one kind or one colour, which makes high counts as likely as low ones."""
    count = dice.below(2) if few else 1 + dice.weighted(range(4), (2, 3, 3, 4))
    crowd = dice.weighted(("none", "kind", "colour"), (0.4, 0.3, 0.3))
    kind, colour = dice.pick(tuple(names.SHAPES)), dice.pick(tuple(names.COLOURS))
    shapes: list[Shape] = []
    for _ in range(count):
        own_kind = kind if crowd == "kind" and dice.chance(0.85) else dice.pick(tuple(names.SHAPES))
        own_colour = colour if crowd == "colour" and dice.chance(0.85) else dice.pick(tuple(names.COLOURS))
        texture, angle = dice.pick(names.TEXTURES), dice.uniform(-15, 15)
        for size in ("large", "small") if dice.chance(0.5) else ("small",):
            side = 2 * names.SIZES[size]
            box = _place(dice, width, height, (side, side), taken)
            if box:
                taken.append(box)
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                shapes.append(Shape(own_kind, own_colour, texture, size, x, y, angle))
                break
    return tuple(shapes)
