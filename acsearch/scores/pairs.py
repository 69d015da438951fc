"""Image pairs with keypoints, read strictly from the layout of SPair-71k; an error names the broken file.

    JPEGImages/<category>/<image>.jpg
    ImageAnnotation/<category>/<image>.json       kps: {"0": [x, y], "1": null, ...}, all keypoints that are visible
    PairAnnotation/<split>/<id>-<source>-<target>:<category>.json
    Layout/large/<split>.txt                      optional: the names of all pairs; then none may be missing
    keypoints.json                                optional: {<category>: {"groups": [[2, 3], ...]}}, see `_groups`

The pairs of the micro study have the same layout. Coordinates are pixels of the image file.

Source: SPair-71k (arXiv 1908.10543).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trainers.errors import DataError
from trainers.utils.strict_yaml import read_text

if TYPE_CHECKING:
    from acsearch.law.features import Array, Index

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs over I distinct images. Keypoints are padded to K, the largest number that a pair has.

    Attributes:
        images: (I,) files.
        sizes: (I, 2) width and height in pixels.
        source: (P,) the source image of each pair, a row of `images`.
        target: (P,) the target image of each pair, a row of `images`.
        source_points: (P, K, 2) x and y in pixels of the source image, 0 for padding.
        target_points: (P, K, 2) x and y in pixels of the target image, 0 for padding.
        mask: (P, K) False for padding.
        ids: (P, K) ids of the keypoints within their category, -1 for padding.
        boxes: (P, 4) x1, y1, x2, y2 of the object in the target image.
        category: (P,) index of the category in `categories`.
        categories: Names of the categories.
        geometry: (P, K) whether a keypoint is in the geometry-aware subset; None where the categories have no groups.
    """

    images: tuple[Path, ...]
    sizes: Array
    source: Index
    target: Index
    source_points: Array
    target_points: Array
    mask: Flags
    ids: Index
    boxes: Array
    category: Index
    categories: tuple[str, ...]
    geometry: Flags | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def points(self) -> int:
        """Number of keypoints of all pairs together."""
        return int(self.mask.sum())


def read_pairs(folder: Path, split: str = "test") -> Pairs:
    """Read all pairs of a split, in the order of their names.

    Args:
        folder: Folder that holds JPEGImages, ImageAnnotation and PairAnnotation.
        split: Folder in PairAnnotation.

    Raises:
        DataError: a file is missing or broken, or a pair has no keypoint; the message names the file.
    """
    for name in ("JPEGImages", "ImageAnnotation", "PairAnnotation"):
        if not (folder / name).is_dir():
            raise DataError(
                f"{folder}: no pairs in SPair-71k's layout: it has no folder {name}; give the folder that holds "
                "JPEGImages, ImageAnnotation and PairAnnotation"
            )
    files = sorted((folder / "PairAnnotation" / split).glob("*.json"))
    if not files:
        raise DataError(f"{folder / 'PairAnnotation' / split}: no pair of the split {split!r} there")
    _check_listing(folder, split, files)
    categories = tuple(sorted(path.name for path in (folder / "JPEGImages").iterdir() if path.is_dir()))
    return _collect(folder, files, categories)


_Side = Annotated[int, Field(ge=1, le=1_000_000)]
_Coordinate = Annotated[float, Field(ge=-1_000_000, le=1_000_000)]  # pixels; some lie beyond the image's edge


class _Annotation(BaseModel):
    """The keys of a pair's JSON that are used; SPair-71k has more."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    category: str
    src_imname: str
    trg_imname: str
    src_imsize: list[_Side] = Field(min_length=2)
    trg_imsize: list[_Side] = Field(min_length=2)
    trg_bndbox: Annotated[list[_Coordinate], Field(min_length=4, max_length=4)]
    src_kps: list[tuple[_Coordinate, _Coordinate]] = Field(min_length=1)
    trg_kps: list[tuple[_Coordinate, _Coordinate]]
    kps_ids: list[Annotated[int, Field(ge=0, lt=2**31)]]

    def problem(self, categories: Sequence[str]) -> str | None:
        """Check what concerns several keys. Returns what is wrong, None where nothing is."""
        if not len(self.src_kps) == len(self.trg_kps) == len(self.kps_ids):
            return (
                f"{len(self.src_kps)} src_kps, {len(self.trg_kps)} trg_kps and {len(self.kps_ids)} kps_ids; not as many"
            )
        if self.category not in categories:
            return f"its category is {self.category!r}, and JPEGImages has no such folder"
        x1, y1, x2, y2 = self.trg_bndbox
        if x2 <= x1 or y2 <= y1:
            return f"trg_bndbox {self.trg_bndbox} is empty; expected x1, y1, x2, y2"
        return None


def _collect(folder: Path, files: Sequence[Path], categories: tuple[str, ...]) -> Pairs:
    pairs = [_read_pair(path, categories) for path in files]
    rows: dict[tuple[str, str], int] = {}
    sizes: list[tuple[int, int]] = []
    for path, pair in zip(files, pairs, strict=True):
        for name, size in ((pair.src_imname, pair.src_imsize), (pair.trg_imname, pair.trg_imsize)):
            row = rows.setdefault((pair.category, name), len(rows))
            if row == len(sizes):
                sizes.append((size[0], size[1]))
            elif sizes[row] != (size[0], size[1]):
                raise DataError(f"{path}: {name} is {size[:2]} here and {list(sizes[row])} in another pair")
    images = tuple(folder / "JPEGImages" / category / name for category, name in rows)
    for image in images:
        if not image.is_file():
            raise DataError(f"{image}: no such image, though a pair names it")
    width = max(len(pair.kps_ids) for pair in pairs)
    ids = np.full((len(pairs), width), -1, dtype=np.intp)
    points = np.zeros((2, len(pairs), width, 2))
    for row, pair in enumerate(pairs):
        count = len(pair.kps_ids)
        ids[row, :count] = pair.kps_ids
        points[0, row, :count], points[1, row, :count] = pair.src_kps, pair.trg_kps
    target = np.array([rows[pair.category, pair.trg_imname] for pair in pairs], dtype=np.intp)
    category = np.array([categories.index(pair.category) for pair in pairs], dtype=np.intp)
    return Pairs(
        images=images,
        sizes=np.array(sizes, dtype=float),
        source=np.array([rows[pair.category, pair.src_imname] for pair in pairs], dtype=np.intp),
        target=target,
        source_points=points[0],
        target_points=points[1],
        mask=ids >= 0,
        ids=ids,
        boxes=np.array([pair.trg_bndbox for pair in pairs], dtype=float),
        category=category,
        categories=categories,
        geometry=_geometry(folder, images, target, ids, [categories[place] for place in category]),
    )


def _read_pair(path: Path, categories: Sequence[str]) -> _Annotation:
    try:
        pair = _Annotation.model_validate_json(read_text(path, DataError))
    except ValidationError as error:
        raise DataError(f"{path}: not an SPair-71k pair: {_first(error)}") from error
    problem = pair.problem(categories)
    if problem:
        raise DataError(f"{path}: {problem}")
    return pair


def _check_listing(folder: Path, split: str, files: Iterable[Path]) -> None:
    """Refuse an incompletely unpacked archive, which would silently give another score."""
    listing = folder / "Layout" / "large" / f"{split}.txt"
    if listing.is_file():
        missing = sorted(set(read_text(listing, DataError).split()) - {path.stem for path in files})
        if missing:
            raise DataError(
                f"{folder / 'PairAnnotation' / split}: {len(missing)} of the pairs that {listing} lists are missing, "
                f"such as {missing[0]}; unpack the archive again (some file systems refuse colons in file names)"
            )


# -- the geometry-aware subset -----------------------------------------------------------------------------------------

_Groups = TypeAdapter(dict[str, list[list[int]]])


class _Keypoints(BaseModel):
    groups: list[list[int]]


class _ImageAnnotation(BaseModel):
    kps: dict[int, list[float] | None]


def _geometry(folder: Path, images: Sequence[Path], target: Index, ids: Index, category: list[str]) -> Flags | None:
    """(P, K) keypoints whose group has two or more members that are visible in the target image."""
    groups = _groups(folder, sorted(set(category)))
    if groups is None:
        return None
    visible = {image: _visible(folder, images[image]) for image in sorted(set(target.tolist()))}
    chosen = np.zeros(ids.shape, dtype=np.bool_)
    for row, (image, own) in enumerate(zip(target.tolist(), category, strict=True)):
        members = [member for group in groups[own] if len(visible[image] & set(group)) >= 2 for member in group]
        chosen[row] = np.isin(ids[row], members)
    return chosen


def _groups(folder: Path, categories: Sequence[str]) -> dict[str, list[list[int]]] | None:
    """For each category, the sets of keypoints that differ by geometry alone, such as the four paws.

    They come from the folder's keypoints.json, else from the file for SPair-71k. None where a category is not in it.
    """
    own = folder / "keypoints.json"
    try:
        if own.is_file():
            named = TypeAdapter(dict[str, _Keypoints]).validate_json(read_text(own, DataError))
            groups = {category: one.groups for category, one in named.items()}
        else:
            shipped = resources.files("acsearch.scores").joinpath("spair_groups.yaml").read_text(encoding="utf-8")
            groups = _Groups.validate_python(yaml.safe_load(shipped))
    except ValidationError as error:
        raise DataError(f"{own}: not a description of keypoints: {_first(error)}") from error
    return groups if set(categories) <= set(groups) else None


def _visible(folder: Path, image: Path) -> set[int]:
    """Ids of the keypoints that an image shows."""
    path = folder / "ImageAnnotation" / image.parent.name / f"{image.stem}.json"
    try:
        annotation = _ImageAnnotation.model_validate_json(read_text(path, DataError))
    except ValidationError as error:
        raise DataError(f"{path}: not an SPair-71k image annotation: {_first(error)}") from error
    return {place for place, point in annotation.kps.items() if point is not None}


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
