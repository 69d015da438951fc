"""`python -m studies.micro.world FOLDER` writes the data set; with --sheet also a sheet of pictures to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from studies.micro.world.dataset.build import Sizes, build
from studies.micro.world.scenes.draw import draw
from studies.micro.world.scenes.scene import LONG_SIDE, scene
from trainers.errors import AcsearchError

_COLUMNS, _ZOOM, _GUTTER = 8, 2, 6


def sheet(seed: int, split: str = "train", count: int = 48) -> Image.Image:
    """Draw the first scenes of a split side by side, enlarged.

    Args:
        seed: of the world.
        split: of the scenes.
        count: how many scenes.
    """
    step = LONG_SIDE * _ZOOM + _GUTTER
    page = Image.new("RGB", (_COLUMNS * step, -(-count // _COLUMNS) * step), (92, 92, 120))
    for index in range(count):
        picture = draw(scene(seed, split, index))
        picture = picture.resize((picture.width * _ZOOM, picture.height * _ZOOM), Image.Resampling.NEAREST)
        page.paste(picture, (index % _COLUMNS * step, index // _COLUMNS * step))
    return page


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.micro.world", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="PNG of 48 scenes")
    arguments = parser.parse_args()
    if arguments.sheet:
        sheet(arguments.seed).save(arguments.sheet)
    try:
        build(arguments.folder, seed=arguments.seed, sizes=Sizes(), workers=arguments.workers, progress=_show)
    except AcsearchError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.folder} is complete")


def _show(done: int, total: int) -> None:
    print(f"\r{done} of {total} images", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
