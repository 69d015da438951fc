"""Labels of a scene for supervised pretraining, and the keypoints of its creature."""

from __future__ import annotations

from collections import Counter

from studies.micro.world import names
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.pose import Box, placed
from studies.micro.world.scenes.scene import Scene

_MARGIN = 1.0  # pixels: a keypoint nearer to the border is not visible

LABELS: dict[str, tuple[str, ...]] = {
    "species": ("none", *SPECIES),
    "body": ("none", *names.COLOURS),
    "background": tuple(names.BACKGROUNDS),
    "count": names.NUMBERS,
    "text": ("none", *names.DIGITS, *names.WORDS),
    **dict.fromkeys(names.SHAPES, ("none", *names.COLOURS, "several")),
    **dict.fromkeys(names.TEXTURES, ("no", "yes")),
}


def labels(scene: Scene) -> dict[str, int]:
    """The labels of a scene, as indices into the values of `LABELS`.

    `body` is the colour of the creature's first part. The label of a shape's name is the colour of the shapes of that
    kind, or "several"; the label of a texture's name says whether a shape has it.
    """
    creature, sign = scene.creature, scene.sign
    textures = Counter(shape.texture for shape in scene.shapes)
    values = {
        "species": creature.species if creature else "none",
        "body": creature.colours[0] if creature else "none",
        "background": scene.background,
        "count": names.NUMBERS[len(scene.shapes)],
        "text": sign.text if sign else "none",
    }
    for kind in names.SHAPES:
        colours = {shape.colour for shape in scene.shapes if shape.kind == kind}
        values[kind] = "several" if len(colours) > 1 else next(iter(colours), "none")
    for texture in names.TEXTURES:
        values[texture] = "yes" if textures[texture] else "no"
    return {name: LABELS[name].index(value) for name, value in values.items()}


def keypoints(scene: Scene) -> dict[str, tuple[float, float]]:
    """(x, y) in pixels, by name, of the creature's keypoints inside the image; empty where there is no creature."""
    creature = scene.creature
    if creature is None:
        return {}
    points = placed(creature.species, creature.genes, creature.pose).keypoints
    right, bottom = scene.width - _MARGIN, scene.height - _MARGIN
    order = SPECIES[creature.species].keypoints
    inside = {name: points[name] for name in order}
    return {name: (x, y) for name, (x, y) in inside.items() if _MARGIN <= x <= right and _MARGIN <= y <= bottom}


def bounding_box(scene: Scene) -> Box | None:
    """(x1, y1, x2, y2) in pixels around the creature, cut at the image's border; None where there is no creature."""
    if scene.creature is None:
        return None
    x1, y1, x2, y2 = scene.creature.box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(scene.width)), min(y2, float(scene.height))
