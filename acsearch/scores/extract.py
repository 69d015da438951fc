"""Feature extraction for the images of pairs, and C of a vision representation from beginning to end.

Only distinct images are encoded (the 12,234 test pairs of SPair-71k have 481). The features of several encoders are
kept separate until their dot products are added, so features that were extracted once serve every combination:

    parts = {name: extract(vision, pairs) for ...}                # once per encoder
    correspondence(on_grid([parts["clip"], parts["dino"]], joining), pairs, frames)

A map is of one square view of each image. Where a language model is shown more of it (tiles, its own proportions), C is
of the view that shows all of it: see `VisionRepresentation.in_squares`. Where encoders have a connector each (append,
interleave), C is of both: as in `normconcat`, the mean of their cosine similarities on the first one's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from acsearch.scores.compat import compat_correspondence, compat_spec
from acsearch.scores.correspondence import ALPHA, correspondence
from acsearch.scores.pck import CorrespondenceResult
from trainers.contracts import Features
from trainers.encoders import Registry
from trainers.encoders.images import content_seed, open_image
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.errors import DataError
from trainers.framings.square import SQUASH, Frame, frame
from trainers.joinings import Joining
from trainers.joinings.normconcat import NormConcat
from trainers.ranks.group import ALONE, Group
from trainers.representation import Choice, Representation
from trainers.utils.progress import CountCallback

if TYPE_CHECKING:
    from acsearch.scores.pairs import Pairs

_THREADS = 8  # that open images while the encoders compute


def extract(
    vision: VisionRepresentation,
    pairs: Pairs,
    *,
    batch_size: int = 16,
    progress: CountCallback | None = None,
    group: Group = ALONE,
) -> list[Tensor]:
    """Encode the images of pairs. Memory holds the features and a few batches of images.

    Args:
        vision: The vision representation, with square views.
        pairs: The pairs.
        batch_size: Images at a time.
        progress: Called after each batch with the number of images done and the number of all; of a rank's own share.
        group: The ranks that share the batches. Batches are the same however many there are.

    Returns:
        For each encoder (images, height, width, channels), not joined, in the order of `pairs.images`, on its device;
        where several ranks encoded them, on the CPU of the first, and nothing on the others.

    Raises:
        DataError: an image cannot be read, or does not have the size that the pairs state.
    """
    parts, every = vision.encoders, list(range(len(pairs.images)))
    batches = [every[start : start + batch_size] for start in range(0, len(every), batch_size)]
    mine = group.share(batches)
    wanted, done = sum(map(len, mine)), 0
    maps = [torch.empty(0, *part.grid, part.width) for part in parts]  # of a rank without a share
    for views, seeds in _prepared(vision, pairs, mine):
        features = [part.encode(view, seeds) for part, view in zip(parts, views, strict=True)]
        if not done:
            maps = [one.new_empty(wanted, *one.shape[1:]) for one in features]
        for whole, some in zip(maps, features, strict=True):
            whole[done : done + len(seeds)] = some
        done += len(seeds)
        if progress:
            progress(done, wanted)
    return maps if group.size == 1 else _gathered(maps, batches, group)


def _gathered(maps: list[Tensor], batches: Sequence[list[int]], group: Group) -> list[Tensor]:
    """The maps of all ranks, in the order of images; nothing on ranks but the first."""
    found = []
    for one in maps:
        shares = group.gather([one.cpu()])
        if not shares:
            continue
        whole = shares[0].new_empty(sum(map(len, batches)), *one.shape[1:])
        for rank, share in enumerate(shares):
            places = [place for batch in batches[rank :: group.size] for place in batch]
            whole[places] = share.to(whole.dtype)
        found.append(whole)
    return found


def on_grid(parts: Sequence[Tensor], joining: Joining) -> list[Tensor]:
    """Prepare the feature maps of several encoders as their joining does, but without joining them.

    Args:
        parts: (images, height, width, channels) for each encoder.
        joining: How they are joined.

    Returns:
        The maps on the common grid, normalised where the joining says so.
    """
    kind = type(joining) if joining.branches == "one" else NormConcat
    grid = joining.grid or (parts[0].shape[1] if len({part.shape[1:3] for part in parts}) > 1 else None)
    return [kind(grid).features([Features.of_maps(part)])[0].maps() for part in parts]


def frames(vision: VisionRepresentation, pairs: Pairs) -> list[Frame]:
    """How each image of the pairs is placed in the square of the first encoder, on whose grid features are joined."""
    size = vision.encoders[0].size
    return [frame(int(width), int(height), size, vision.framing.square) for width, height in pairs.sizes]


def extent(vision: VisionRepresentation) -> float:
    """Pixels of the side of the first encoder that its grid covers, for instance 378 of 384 with patches of 14."""
    encoder = vision.encoders[0]
    covered = encoder.grid[1] * encoder.spec.patch
    return covered if encoder.size - encoder.spec.patch < covered <= encoder.size else encoder.size


def measure(
    vision: VisionRepresentation,
    pairs: Pairs,
    *,
    alpha: float = ALPHA,
    decode: str = "argmax",
    batch_size: int = 16,
    progress: CountCallback | None = None,
) -> CorrespondenceResult:
    """Compute C of a vision representation.

    Args:
        vision: The vision representation.
        pairs: The pairs.
        alpha: Share of the longer side of the box that counts as found.
        decode: `argmax` or `soft`.
        batch_size: Images at a time.
        progress: Called after each batch with the number of images done and the number of all.

    Raises:
        DataError: an image cannot be read, or does not have the size that the pairs state.
        ConfigError: the decoding is unknown.
    """
    vision = vision.in_squares
    parts = on_grid(extract(vision, pairs, batch_size=batch_size, progress=progress), vision.joining)
    return correspondence(parts, pairs, frames(vision, pairs), alpha=alpha, decode=decode, extent=extent(vision))


def measure_compat(
    representation: Representation,
    registry: Registry,
    pairs: Pairs,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    alpha: float = ALPHA,
    batch_size: int = 16,
    progress: CountCallback | None = None,
) -> CorrespondenceResult:
    """Compute C_compat of the encoders of a representation.

    Everything but the encoders is ignored, because the authors' code knows nothing else.

    Args:
        representation: The representation.
        registry: The encoders.
        pairs: The pairs.
        device: Device of the encoders.
        dtype: Precision of the encoders.
        alpha: Share of the longer side of the box that counts as found.
        batch_size: Images at a time.
        progress: As in `extract`.

    Raises:
        DataError: an image cannot be read or does not have the stated size, or the grid is not square.
    """
    vision = compat_vision(representation, registry, device=device, dtype=dtype)
    maps = extract(vision, pairs, batch_size=batch_size, progress=progress)
    return compat_correspondence(on_grid(maps, vision.joining), pairs, alpha=alpha)


def compat_vision(
    representation: Representation,
    registry: Registry,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionRepresentation:
    """Build the encoders of a representation as C_compat shows them images, joined as it joins them.

    Args:
        representation: The representation.
        registry: The encoders.
        device: Device of the encoders.
        dtype: Precision of the encoders.
    """
    stretched = Registry({name: compat_spec(spec) for name, spec in registry.items()})
    joined = replace(representation, joining=Choice("normconcat"), framing=Choice(SQUASH))
    return build_representation(joined, stretched, device=device, dtype=dtype)


def _prepared(
    vision: VisionRepresentation, pairs: Pairs, batches: Sequence[list[int]]
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """For each encoder (batch, 3, size, size) uint8, and the seeds of the images. Threads open images ahead of use."""

    def prepare(place: int) -> tuple[tuple[Tensor, ...], int]:
        return _prepare(vision, pairs.images[place], pairs.sizes[place])

    with ThreadPoolExecutor(_THREADS) as pool:
        ahead = [[pool.submit(prepare, place) for place in batch] for batch in batches[:2]]
        for number in range(len(batches)):
            ready = [one.result() for one in ahead.pop(0)]
            ahead += [[pool.submit(prepare, place) for place in batch] for batch in batches[number + 2 : number + 3]]
            views = zip(*(views for views, _ in ready), strict=True)
            yield [torch.stack(part) for part in views], torch.tensor([seed for _, seed in ready])


def _prepare(vision: VisionRepresentation, path: Path, size: np.ndarray) -> tuple[tuple[Tensor, ...], int]:
    image = open_image(path)
    if image.size != (int(size[0]), int(size[1])):
        raise DataError(
            f"{path}: is {image.width} x {image.height} pixels, where its pairs say {size[0]:.0f} x {size[1]:.0f}; "
            "its keypoints would not fit"
        )
    layout = vision.framing.layout(*image.size)
    views = tuple(vision.part_views(part, [image], layout)[0] for part in range(len(vision.parts)))
    return views, content_seed(image)
