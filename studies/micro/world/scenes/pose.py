"""A creature in the image: its outlines, keypoints and bounding box, in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from studies.micro.world.scenes.creatures import SPECIES, Anatomy, Piece, Point

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pose:
    """Where a creature is and how it is held.

    Attributes:
        x: of the origin of its own frame, in pixels.
        y: of the origin of its own frame, in pixels.
        scale: pixels for one unit of its own frame.
        stretch: factors across and along, about 1.
        angle: in degrees, clockwise.
        mirrored: whether it looks to the other side.
    """

    x: float
    y: float
    scale: float
    stretch: tuple[float, float]
    angle: float
    mirrored: bool


@lru_cache(maxsize=64)
def placed(species: str, genes: tuple[float, ...], pose: Pose) -> Anatomy:
    """A creature's pieces, keypoints and eyes, in pixels of the image."""
    anatomy = SPECIES[species].grow(genes)
    cos, sin = math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))
    across, along = pose.stretch[0] * pose.scale * (-1 if pose.mirrored else 1), pose.stretch[1] * pose.scale

    def move(point: Point) -> Point:
        x, y = point[0] * across, point[1] * along
        return pose.x + x * cos - y * sin, pose.y + x * sin + y * cos

    pieces = tuple(Piece(piece.part, tuple(map(move, piece.outline))) for piece in anatomy.pieces)
    keys = {name: move(point) for name, point in anatomy.keypoints.items()}
    return Anatomy(pieces, keys, tuple(map(move, anatomy.eyes)))


def extent(anatomy: Anatomy) -> Box:
    """(x1, y1, x2, y2) around all pieces."""
    xs = [x for piece in anatomy.pieces for x, _ in piece.outline]
    ys = [y for piece in anatomy.pieces for _, y in piece.outline]
    return min(xs), min(ys), max(xs), max(ys)
