"""What the image tokens of a picture could tell at best: a grid of cells, with the words for what is in each.

The LLM is trained to read these, a cell as one token. A connector then only has to find the words of each token, and
needs no language of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from studies.micro import world
from studies.micro.world.language.captions import spot_name
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.pose import Box
from studies.micro.world.scenes.scene import LONG_SIDE, Scene

GRID = 4
_SIDE = LONG_SIDE / GRID  # of a cell, in pixels
_COVERED = 0.3  # share of a cell from which on a thing is in it


def cells(scene: Scene) -> list[list[str]]:
    """The words of GRID * GRID cells in raster order, with the scene in the middle of a square frame.

    A creature's parts and dots are told where they are; the background only where there is nothing else.
    """
    grid = _Cells(scene)
    for shape in scene.shapes:
        words = (shape.size, shape.colour, shape.texture, shape.kind)
        grid.add({grid.at(shape.x, shape.y), *grid.under(shape.box)}, words)
    if scene.sign:
        here = grid.at(scene.sign.x, scene.sign.y)
        grid.add({here, *grid.under(scene.sign.box)}, ("sign",))
        grid.add({here}, (scene.sign.text,))
    if scene.creature:
        creature, species, points = scene.creature, SPECIES[scene.creature.species], world.keypoints(scene)
        grid.add(grid.under(creature.box), (creature.species,))
        for part, point in species.parts.items():
            if point in points:
                grid.add({grid.at(*points[point])}, (*part.split(), creature.parts[part]))
        for dot in creature.dots:
            if dot.keypoint in points:
                spot = spot_name(creature.species, dot.keypoint)
                grid.add({grid.at(*points[dot.keypoint])}, (dot.colour, "dot", *spot.split()))
    grid.add({cell for cell in grid.inside() if not grid.bags[cell]}, (scene.background,))
    return grid.bags


class _Cells:
    def __init__(self, scene: Scene) -> None:
        self.bags: list[list[str]] = [[] for _ in range(GRID * GRID)]
        self._scene = scene
        self._left, self._top = (LONG_SIDE - scene.width) / 2, (LONG_SIDE - scene.height) / 2

    def add(self, places: Iterable[int], words: tuple[str, ...]) -> None:
        for place in places:
            self.bags[place] += words

    def at(self, x: float, y: float) -> int:
        """The cell of a point of the scene."""
        column, row = (int(min(max(along / _SIDE, 0), GRID - 1)) for along in (x + self._left, y + self._top))
        return row * GRID + column

    def under(self, box: Box) -> list[int]:
        """The cells that a box covers."""
        across = _shares(box[0] + self._left, box[2] + self._left)
        down = _shares(box[1] + self._top, box[3] + self._top)
        shares = [high * wide for high in down for wide in across]
        return [cell for cell, share in enumerate(shares) if share > _COVERED]

    def inside(self) -> list[int]:
        """The cells whose middle is in the scene."""
        middles = [(place + 0.5) * _SIDE for place in range(GRID)]
        return [
            row * GRID + column
            for row, y in enumerate(middles)
            for column, x in enumerate(middles)
            if 0 <= x - self._left < self._scene.width and 0 <= y - self._top < self._scene.height
        ]


def _shares(begin: float, end: float) -> list[float]:
    """How much of each cell along one axis lies between two points."""
    return [max(0.0, min(end, (i + 1) * _SIDE) - max(begin, i * _SIDE)) / _SIDE for i in range(GRID)]
