"""Draw a scene: PIL at twice the size, then halved."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from studies.micro.world import names
from studies.micro.world.names import RGB
from studies.micro.world.scenes import fonts
from studies.micro.world.scenes.creatures import SPECIES, Point
from studies.micro.world.scenes.pose import placed
from studies.micro.world.scenes.scene import Creature, Scene, Shape, Sign

_UP = 2  # supersampling
_EDGE: RGB = (24, 24, 24)
_BROWN: RGB = (124, 92, 62)
_TILE = 64
_PERIOD = 12  # of a texture, in drawn pixels


def draw(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of its width and height."""
    image = _background(scene.width, scene.height, scene.background, scene.slope).copy()
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        _shape(image, pen, shape)
    if scene.sign:
        _sign(pen, scene.sign)
    if scene.creature:
        _creature(pen, scene.creature)
    return image.reduce(_UP)


@lru_cache(maxsize=64)
def _background(width: int, height: int, name: str, slope: int) -> Image.Image:
    start, end = (np.array(rgb, dtype=np.float64) for rgb in names.BACKGROUNDS[name])
    if slope >= 2:
        start, end = end, start
    down = slope % 2 == 0
    ramp = np.linspace(0, 1, (height if down else width) * _UP)[:, None]
    line = (start + (end - start) * ramp).round().astype(np.uint8)  # (length, 3)
    shape = (height * _UP, width * _UP, 3)
    return Image.fromarray(np.broadcast_to(line[:, None] if down else line[None], shape).copy())


@lru_cache(maxsize=64)
def _tile(colour: str, texture: str) -> Image.Image:
    """A square of 64 x 64 pixels of a texture."""
    y, x = np.mgrid[:_TILE, :_TILE]
    half = _PERIOD // 2
    if texture == "striped":
        marks = (x + y) % _PERIOD < half - 1
    elif texture == "checked":
        marks = (x // half + y // half) % 2 == 0
    elif texture == "dotted":
        marks = (x % _PERIOD - half + 0.5) ** 2 + (y % _PERIOD - half + 0.5) ** 2 < 9.5
    else:
        marks = np.zeros_like(x, dtype=bool)
    ink = (20, 20, 20) if colour in names.LIGHT else (255, 255, 255)
    return Image.fromarray(np.where(marks[..., None], ink, names.COLOURS[colour]).astype(np.uint8))


@lru_cache(maxsize=16)
def _outline(kind: str) -> tuple[Point, ...]:
    """A shape's outline, within the unit circle."""

    def corners(count: int, start: float, *radii: float) -> tuple[Point, ...]:
        steps = [(start + 2 * math.pi * i / count, radii[i % len(radii)]) for i in range(count)]
        return tuple((r * math.cos(a), r * math.sin(a)) for a, r in steps)

    up = -math.pi / 2
    if kind in ("circle", "ring"):
        return corners(28, 0.0, 0.95)
    if kind == "square":
        return corners(4, math.pi / 4, 1.12)
    if kind == "triangle":
        return tuple((x, y + 0.2) for x, y in corners(3, up, 1.15))
    if kind == "star":
        return corners(10, up, 1.1, 0.46)
    arm = 0.34
    quarter = [(arm, -0.98), (arm, -arm), (0.98, -arm)]
    turns = [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]
    return tuple((a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in quarter)


def _shape(image: Image.Image, pen: ImageDraw.ImageDraw, shape: Shape) -> None:
    radius = names.SIZES[shape.size] * _UP
    cos, sin = (f(math.radians(shape.angle)) * radius for f in (math.cos, math.sin))
    centre_x, centre_y = shape.x * _UP, shape.y * _UP
    points = [(centre_x + x * cos - y * sin, centre_y + x * sin + y * cos) for x, y in _outline(shape.kind)]
    left, top = int(centre_x - 1.2 * radius), int(centre_y - 1.2 * radius)
    side = int(2.4 * radius) + 2
    mask = Image.new("L", (side, side))
    mask_pen = ImageDraw.Draw(mask)
    mask_pen.polygon([(x - left, y - top) for x, y in points], fill=255)
    inner = [((x - centre_x) * 0.45 + centre_x, (y - centre_y) * 0.45 + centre_y) for x, y in points]
    if shape.kind == "ring":
        mask_pen.polygon([(x - left, y - top) for x, y in inner], fill=0)
    image.paste(_tile(shape.colour, shape.texture).crop((0, 0, side, side)), (left, top), mask)
    pen.line([*points, *points[:2]], fill=_EDGE, width=2)
    if shape.kind == "ring":
        pen.line([*inner, *inner[:2]], fill=_EDGE, width=2)


def _sign(pen: ImageDraw.ImageDraw, sign: Sign) -> None:
    plate, ink = ((250, 250, 250), (10, 10, 10))
    if sign.dark:
        plate, ink = (14, 14, 14), (250, 250, 250)
    box = tuple(round(edge * _UP) for edge in sign.box)
    pen.rectangle(box, fill=plate, outline=ink, width=2)
    text, pixels = sign.text.upper(), sign.pixels * _UP
    left, top, right, bottom = fonts.extent(text, sign.font, pixels)
    at = (round(sign.x * _UP - (left + right) / 2), round(sign.y * _UP - (top + bottom) / 2))
    pen.text(at, text, fill=ink, font=fonts.load(sign.font, pixels))


def _creature(pen: ImageDraw.ImageDraw, creature: Creature) -> None:
    anatomy = placed(creature.species, creature.genes, creature.pose)
    parts, trim = creature.parts, SPECIES[creature.species].trim
    for piece in anatomy.pieces:
        colour = parts.get(piece.part) or parts.get(trim.get(piece.part, ""))
        points = [(x * _UP, y * _UP) for x, y in piece.outline]
        pen.polygon(points, fill=names.COLOURS[colour] if colour else _BROWN)
        pen.line([*points, points[0]], fill=_EDGE, width=1)
    for x, y in anatomy.eyes:
        _disc(pen, x, y, 1.6, (255, 255, 255))
        _disc(pen, x, y, 0.9, (0, 0, 0))
    for dot in creature.dots:
        fill, rim = names.DOTS[dot.colour]
        x, y = anatomy.keypoints[dot.keypoint]
        _disc(pen, x, y, 3.6, rim)
        _disc(pen, x, y, 2.6, fill)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: RGB) -> None:
    pen.ellipse([(x - radius) * _UP, (y - radius) * _UP, (x + radius) * _UP, (y + radius) * _UP], fill=fill)
