"""Subsets of LLaVA-1.5's data, with the images that they need and no others.

    python -m studies.laptop.subset --captions blip_laion_cc_sbu_558k.json --caption-images images.zip \\
        --instructions llava_v1_5_mix665k.json --coco train2017.zip --out data

Of the instructions, those about COCO's images and those without an image are taken. Which rows, follows from the seed
and the rows' number alone. Images come out of an archive, or out of a folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from trainers.errors import AcsearchError, DataError
from trainers.utils.atomic import atomic_write

COCO = "coco/train2017/"
Row = dict[str, Any]


def choose(rows: Sequence[Row], count: int, seed: int, wanted: Callable[[Row], bool]) -> list[Row]:
    """So many of the rows that are wanted, in their order.

    Args:
        rows: of a manifest.
        count: how many; all where there are not more.
        seed: decides which.
        wanted: says of a row whether it may be taken.
    """
    places = [place for place, row in enumerate(rows) if wanted(row)]
    return [rows[place] for place in sorted(random.Random(seed).sample(places, min(count, len(places))))]


def write_subset(rows: Sequence[Row], images: Path, prefix: str, folder: Path) -> int:
    """Write rows as a manifest, `subset.json`, with their images beside it. An image that is there is left as it is.

    Args:
        rows: of a manifest.
        images: archive or folder of their images.
        prefix: of a row's `image` that the archive's names do not have.
        folder: where they are written.

    Returns:
        How many images were written.

    Raises:
        DataError: an image is not in the archive, or has a name that leads out of the folder.
    """
    written = 0
    with _opener(images) as open_image:
        for name in sorted({row["image"] for row in rows if "image" in row}):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"the image {name!r} is not below the folder of the data")
            if (folder / path).exists():
                continue
            with (
                open_image(name.removeprefix(prefix)) as source,
                atomic_write(folder / path) as fresh,
                fresh.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
            written += 1
    with atomic_write(folder / "subset.json") as fresh:
        fresh.write_text(json.dumps(list(rows)), encoding="utf-8")
    return written


@contextmanager
def _opener(images: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Opens an image by its name in an archive, in whatever folder there, or in a folder."""
    if images.is_dir():
        yield lambda name: (images / name).open("rb")
        return
    try:
        with zipfile.ZipFile(images) as archive:
            inside = {one.removeprefix(f"{images.stem}/"): one for one in archive.namelist()}

            def read(name: str) -> IO[bytes]:
                if name not in inside:
                    raise DataError(f"{images}: has no {name}")
                return archive.open(inside[name])

            yield read
    except zipfile.BadZipFile as error:
        raise DataError(f"{images}: is no archive; download it again: {error}") from error


def _read(manifest: Path) -> list[Row]:
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest}: cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{manifest}: expected a list of rows, as LLaVA's files have")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.laptop.subset", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="blip_laion_cc_sbu_558k.json")
    parser.add_argument("--caption-images", type=Path, required=True, help="its images.zip, or its folder")
    parser.add_argument("--instructions", type=Path, required=True, help="llava_v1_5_mix665k.json")
    parser.add_argument("--coco", type=Path, required=True, help="train2017.zip of COCO, or its folder")
    parser.add_argument("--out", type=Path, required=True, help="the study's data folder")
    parser.add_argument("--rows", type=int, default=60_000, help="of each; default: 60000")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    captions = choose(_read(given.captions), given.rows, given.seed, lambda row: "image" in row)
    instructions = choose(
        _read(given.instructions), given.rows, given.seed, lambda row: row.get("image", COCO).startswith(COCO)
    )
    for name, rows, images, prefix in (
        ("LLaVA-Pretrain", captions, given.caption_images, ""),
        ("LLaVA-Instruct", instructions, given.coco, COCO),
    ):
        written = write_subset(rows, images, prefix, given.out / name)
        print(f"{given.out / name / 'subset.json'}: {len(rows)} rows, {written} images")


if __name__ == "__main__":
    try:
        main()
    except AcsearchError as error:
        sys.exit(f"error: {error.line}")
