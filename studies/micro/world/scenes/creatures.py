"""The anatomy of the creatures: parts as polygons and named keypoints, as a function of ten genes.

A creature lives in a frame of its own, about two units long, y down. Birds, beetles and lizards are seen from above
with the head up, so their left is at negative x; fish are seen from the side with the head at negative x. Genes lie
in [-1, 1] and set proportions and pose (sweep of the wings, bend of the tail, gait). Keypoints move with their parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]
GENES = 10


@dataclass(frozen=True)
class Piece:
    """A polygon of a creature.

    Attributes:
        part: the part whose colour it has.
        outline: its corners.
    """

    part: str
    outline: tuple[Point, ...]


@dataclass(frozen=True)
class Anatomy:
    """The body of a creature.

    Attributes:
        pieces: its polygons, in the order of drawing.
        keypoints: positions by name.
        eyes: positions of the drawn eyes.
    """

    pieces: tuple[Piece, ...]
    keypoints: dict[str, Point]
    eyes: tuple[Point, ...]


@dataclass(frozen=True)
class Species:
    """What all creatures of a species share.

    Attributes:
        keypoints: their names.
        parts: each coloured part, with the keypoint on it.
        pairs: keypoints that mirror each other.
        spots: keypoints that a dot can mark, with the one-word answer to "what part is at the dot ?".
        grow: makes the body from ten genes.
        trim: pieces without a colour of their own, with the part whose colour they take; other pieces are brown.
        mirrored: whether it is seen from the side and can look to either side; the others turn round instead.
    """

    keypoints: tuple[str, ...]
    parts: dict[str, str]
    pairs: tuple[tuple[str, str], ...]
    spots: dict[str, str]
    grow: Callable[[Sequence[float]], Anatomy]
    trim: dict[str, str] = field(default_factory=dict)
    mirrored: bool = False


def _ellipse(x: float, y: float, rx: float, ry: float, count: int = 18) -> tuple[Point, ...]:
    angles = [2 * math.pi * i / count for i in range(count)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _limb(path: Sequence[Point], start: float, end: float) -> tuple[Point, ...]:
    """A strip around a path whose half width goes from `start` to `end`."""
    left, right = [], []
    for i, (x, y) in enumerate(path):
        (ax, ay), (bx, by) = path[max(i - 1, 0)], path[min(i + 1, len(path) - 1)]
        length = math.hypot(bx - ax, by - ay) or 1.0
        half = start + (end - start) * i / (len(path) - 1)
        nx, ny = -(by - ay) / length * half, (bx - ax) / length * half
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return (*left, *reversed(right))


def _swing(point: Point, pivot: Point, angle: float) -> Point:
    """The point turned about the pivot, angle in radians."""
    x, y = point[0] - pivot[0], point[1] - pivot[1]
    cos, sin = math.cos(angle), math.sin(angle)
    return pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


_HANDS = (("left", -1.0), ("right", 1.0))


def _bird(g: Sequence[float]) -> Anatomy:
    width, span, chord = 0.32 + 0.06 * g[0], 1.25 + 0.2 * g[1], 0.5 + 0.1 * g[2]
    pieces, keys = [], {}
    tail_root = (0.0, 0.6)
    fan, length, bend = 0.32 + 0.1 * g[3], 0.72 + 0.16 * g[4], 0.35 * g[5]
    tail = [(-0.12, 0.5), (-fan, 0.6 + length), (0.0, 0.5 + length), (fan, 0.6 + length), (0.12, 0.5)]
    pieces.append(Piece("tail", tuple(_swing(p, tail_root, bend) for p in tail)))
    keys["tail"] = _swing((0.0, 0.42 + length), tail_root, bend)
    for side, sign in _HANDS:
        root, sweep = (sign * 0.2, -0.2), sign * (0.3 * g[6] + 0.15 * g[7] * sign)
        wing = [(0.15, -0.42), (span * 0.6, -0.52), (span, -0.3), (span * 0.8, chord * 0.2), (0.15, chord)]
        pieces.append(Piece(f"{side} wing", tuple(_swing((sign * x, y), root, sweep) for x, y in wing)))
        keys[f"{side} wing"] = _swing((sign * span * 0.82, -0.2), root, sweep)
        keys[f"{side} shoulder"] = _swing((sign * (width + 0.12), -0.2), root, sweep)
    pieces.append(Piece("body", _ellipse(0, 0.08, width, 0.68)))
    pieces.append(Piece("beak", ((-0.13, -0.95), (0.0, -1.34 + 0.06 * g[8]), (0.13, -0.95))))
    pieces.append(Piece("head", _ellipse(0, -0.78, 0.27 + 0.03 * g[9], 0.27)))
    eyes = ((-0.17, -0.9), (0.17, -0.9))
    keys |= {"beak": (0.0, -1.12), "head": (0.0, -0.74), "left eye": eyes[0], "right eye": eyes[1], "back": (0.0, 0.12)}
    return Anatomy(tuple(pieces), keys, eyes)


def _fish(g: Sequence[float]) -> Anatomy:
    height, fin, low = 0.5 + 0.09 * g[0], 0.42 + 0.12 * g[1], 0.36 + 0.1 * g[2]
    root, bend, spread, length = (0.85, 0.0), 0.35 * g[3], 0.5 + 0.1 * g[4], 0.55 + 0.12 * g[5]
    shift = 0.12 * g[6]
    upper, lower = (0.9 + length, -spread), (0.9 + length, spread)
    tail = [(0.78, 0.08), lower, (0.72 + length, 0.0), upper, (0.78, -0.08)]
    back = ((-0.35 + shift, -height * 0.85), (0.3 + shift, -height - fin), (0.5 + shift, -height * 0.75))
    belly = ((-0.15 + shift, height * 0.9), (0.35 + shift, height + low), (0.5 + shift, height * 0.75))
    cheek = [(x, y) for x, y in _ellipse(0, 0, 1.0, height, 36) if x < -0.42]
    x = -0.45 + 0.03 * g[7]
    gill = [(x - 0.12 * (1 - (y / height) ** 2) + 0.12, y) for y in (height * 0.85, 0.0, -height * 0.85)]
    cheek.sort(key=lambda p: math.atan2(p[1], -p[0]))
    pieces = (
        Piece("tail", tuple(_swing(p, root, bend) for p in tail)),
        Piece("back fin", back),
        Piece("belly fin", belly),
        Piece("body", _ellipse(0, 0, 1.0, height, 28)),
        Piece("head", tuple(cheek) + tuple(gill)),
        Piece("side fin", ((-0.12, 0.05), (0.28, 0.02 + 0.1 * g[8]), (0.22, 0.3 + 0.1 * g[8]))),
    )
    eye = (-0.68, -0.14)
    keys = {
        "mouth": (-0.93, 0.06),
        "eye": eye,
        "gill": (-0.4, 0.0),
        "back fin": _between(_between(back[0], back[2], 0.5), back[1], 0.6),
        "belly fin": _between(_between(belly[0], belly[2], 0.5), belly[1], 0.6),
        "side fin": (0.15, 0.12 + 0.07 * g[8]),
        "flank": (0.5, 0.0),
        "upper tail": _swing(_between(root, upper, 0.78), root, bend),
        "lower tail": _swing(_between(root, lower, 0.78), root, bend),
    }
    return Anatomy(pieces, keys, (eye,))


def _beetle(g: Sequence[float]) -> Anatomy:
    width, length = 0.64 + 0.08 * g[0], 0.84 + 0.08 * g[1]
    centre, pieces, keys = 0.48, [], {}
    for side, sign in _HANDS:
        for name, y, aim, gene in (("front", -0.35, -0.55, 2), ("middle", 0.3, 0.1, 3), ("hind", 0.75, 0.6, 4)):
            swing = 0.22 * g[gene] * sign + 0.12 * g[5]
            knee = (sign * (width + 0.2), y + aim * 0.35 + swing)
            foot = (sign * (width + 0.36 + 0.08 * g[6]), y + aim + swing)
            pieces.append(Piece("legs", _limb([(sign * 0.2, y), knee, foot], 0.085, 0.06)))
            if name != "middle":
                keys[f"{side} {name} leg"] = _between(knee, foot, 0.6)
        horn = [(sign * 0.12, -0.95), (sign * 0.2, -1.22), (sign * (0.5 + 0.14 * g[7]), -1.4 + 0.1 * g[8])]
        pieces.append(Piece("legs", _limb(horn, 0.07, 0.06)))
        keys[f"{side} horn"] = _between(horn[1], horn[2], 0.7)
    pieces.append(Piece("head", _ellipse(0, -0.86, 0.33, 0.27)))
    pieces.append(Piece("neck", _ellipse(0, -0.5, 0.5 + 0.05 * g[9], 0.28)))
    rim = [math.pi * i / 14 for i in range(15)]
    for side, sign in _HANDS:
        outline = tuple((sign * width * math.sin(a), centre - length * math.cos(a)) for a in rim)
        pieces.append(Piece(f"{side} shell", outline))
        keys[f"{side} shell"] = (sign * width * 0.5, centre)
    eyes = ((-0.14, -1.0), (0.14, -1.0))
    keys |= {"head": (0.0, -0.92), "neck": (0.0, -0.62), "end": (0.0, centre + length * 0.88)}
    return Anatomy(tuple(pieces), keys, eyes)


def _lizard(g: Sequence[float]) -> Anatomy:
    width, reach, pieces, keys = 0.34 + 0.05 * g[0], 0.66 + 0.1 * g[1], [], {}
    bend, length = 0.5 * g[2], 0.42 + 0.06 * g[3]
    curve, heading, point = [(0.0, 0.5)], 0.0, (0.0, 0.5)
    for _ in range(4):
        point = (point[0] + math.sin(heading) * length * 0.72, point[1] + math.cos(heading) * length * 0.72)
        curve.append(point)
        heading += bend
    pieces.append(Piece("tail", _limb(curve, 0.24, 0.07)))
    keys["tail"], keys["bend"] = _between(curve[-2], curve[-1], 0.5), curve[2]
    for side, sign in _HANDS:
        for name, y, aim, gene in (("arm", -0.42, -0.3, 4), ("leg", 0.42, 0.3, 5)):
            swing = 0.25 * g[gene] * sign
            elbow = (sign * (width + reach * 0.45), y - 0.1 * aim + swing * 0.4)
            end = (sign * (width + reach * 0.75), y + aim + swing)
            pieces.append(Piece(f"{side} {name}", _limb([(sign * 0.1, y), elbow, end], 0.14, 0.12)))
            pieces.append(Piece(f"{side} {name}", _ellipse(*end, 0.2, 0.2, 10)))
            keys[f"{side} {'hand' if name == 'arm' else 'foot'}"] = end
    pieces.append(Piece("body", _ellipse(0, 0.05, width, 0.66)))
    turn, pivot = 0.35 * g[6], (0.0, -0.55)
    snout = 1.38 + 0.08 * g[7]
    head = [(-0.18, -0.5), (-0.34, -0.85), (-0.15, -snout + 0.08), (0.0, -snout), (0.15, -snout + 0.08), (0.34, -0.85)]
    pieces.append(Piece("head", tuple(_swing(p, pivot, turn) for p in (*head, (0.18, -0.5)))))
    eyes = (_swing((-0.22, -0.95), pivot, turn), _swing((0.22, -0.95), pivot, turn))
    keys |= {"left eye": eyes[0], "right eye": eyes[1], "snout": _swing((0.0, -snout + 0.14), pivot, turn)}
    keys |= {"head": _swing((0.0, -0.86), pivot, turn), "back": (0.0, 0.0), "hip": (0.0, 0.5)}
    return Anatomy(tuple(pieces), keys, eyes)


SPECIES: dict[str, Species] = {
    "bird": Species(
        keypoints=(
            "beak", "head", "left eye", "right eye", "left shoulder", "right shoulder", "left wing", "right wing",
            "back", "tail",
        ),
        parts={"body": "back", "head": "head", "tail": "tail", "left wing": "left wing", "right wing": "right wing"},
        pairs=(("left eye", "right eye"), ("left shoulder", "right shoulder"), ("left wing", "right wing")),
        spots={"beak": "beak", "left shoulder": "shoulder", "right shoulder": "shoulder", "left wing": "wing",
               "right wing": "wing", "back": "back", "tail": "tail"},
        grow=_bird,
    ),
    "fish": Species(
        keypoints=(
            "mouth", "eye", "gill", "back fin", "belly fin", "side fin", "flank", "upper tail", "lower tail",
        ),
        parts={"body": "flank", "head": "eye", "tail": "upper tail", "back fin": "back fin", "belly fin": "belly fin"},
        pairs=(("back fin", "belly fin"), ("upper tail", "lower tail")),
        spots={"mouth": "mouth", "gill": "gill", "back fin": "fin", "belly fin": "fin", "upper tail": "tail",
               "lower tail": "tail", "flank": "flank"},
        grow=_fish,
        trim={"side fin": "back fin"},
        mirrored=True,
    ),
    "beetle": Species(
        keypoints=(
            "left horn", "right horn", "head", "neck", "left shell", "right shell", "left front leg",
            "right front leg", "left hind leg", "right hind leg", "end",
        ),
        parts={"head": "head", "neck": "neck", "left shell": "left shell", "right shell": "right shell"},
        pairs=(("left horn", "right horn"), ("left shell", "right shell"), ("left front leg", "right front leg"),
               ("left hind leg", "right hind leg")),
        spots={"left horn": "horn", "right horn": "horn", "neck": "neck", "left shell": "shell",
               "right shell": "shell", "left front leg": "leg", "right front leg": "leg", "left hind leg": "leg",
               "right hind leg": "leg", "end": "end"},
        grow=_beetle,
    ),
    "lizard": Species(
        keypoints=(
            "snout", "left eye", "right eye", "head", "left hand", "right hand", "back", "left foot", "right foot",
            "hip", "bend", "tail",
        ),
        parts={"body": "back", "head": "head", "tail": "bend", "left arm": "left hand", "right arm": "right hand"},
        pairs=(("left eye", "right eye"), ("left hand", "right hand"), ("left foot", "right foot")),
        spots={"snout": "snout", "left hand": "hand", "right hand": "hand", "back": "back", "left foot": "foot",
               "right foot": "foot", "tail": "tail"},
        grow=_lizard,
        trim={"left leg": "body", "right leg": "body"},
    ),
}  # fmt: skip
