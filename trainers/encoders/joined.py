"""A vision representation: one or more frozen encoders, what they are shown of images, and how they are joined.

representation = build_representation(parse("clip-l14@224+dinov2-l14@224"), load_registry(), device="cuda")
seen = representation.look([[image]])                       # layouts and views of one image
(joined,) = representation.features(seen)                   # (1, 16 * 16, 2048)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import nn

from trainers.contracts import Features, Grid, Layout, MapShape, Seen
from trainers.encoders import Encoder, Registry, make_encoder
from trainers.encoders.images import content_seed
from trainers.framings import make_framing
from trainers.joinings import make_joining
from trainers.representation import DEFAULTS, Choice, Representation


class VisionRepresentation(nn.Module):
    """One or more frozen encoders, framed and joined.

    Attributes:
        parts: the encoders.
        framing: how images become views; the same for all encoders, so that their cells line up.
        joining: how the encoders become one.
        policy: the framing's name.
        shapes: of what the connectors are given.
    """

    def __init__(
        self, parts: Sequence[Encoder], joining: Choice = DEFAULTS["joining"], framing: Choice = DEFAULTS["framing"]
    ) -> None:
        """
        Args:
            parts: the encoders.
            joining: how they become one.
            framing: how images become views.

        Raises:
            SpaceError: an encoder cannot be shown images as the framing does.
        """
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.policy = str(framing)
        self.framing = make_framing(framing, parts[0].size, parts[0].patch)
        self.joining = make_joining(joining)
        self.shapes = self.joining.shapes([MapShape(part.grid, part.width) for part in parts])
        self._words = joining, framing
        if self.framing.any_shape:
            for part in parts:
                part.check_any_shape(self.policy)

    @property
    def encoders(self) -> list[Encoder]:
        """The parts with their type, which a ModuleList does not know."""
        return [part for part in self.parts if isinstance(part, Encoder)]

    @property
    def grid(self) -> Grid:
        """(height, width) of the first map that connectors are given."""
        return self.shapes[0].grid

    @property
    def width(self) -> int:
        """Channels of all that connectors are given."""
        return sum(shape.width for shape in self.shapes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the features but the precision: encoders, joining and framing."""
        names = [part.fingerprint for part in self.encoders] + [str(self._words[0]), self.policy]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    @cached_property
    def in_squares(self) -> VisionRepresentation:
        """The same encoders, shown each image as one square: what scores of single maps are measured on."""
        joining, framing = self._words
        square = Choice(self.framing.square)
        return self if framing == square else VisionRepresentation(self.encoders, joining, square)

    def cache_key(self, part: int) -> str:
        """What an encoder's features depend on beside the encoder and the images."""
        own, first = self.encoders[part], self.encoders[0]
        if not self.framing.sized:
            return self.policy
        return f"{self.policy}-{first.size}-{first.patch}" + ("" if own.patch == first.patch else f"-{own.patch}")

    def part_views(self, part: int, images: Sequence[Image.Image], layout: Layout) -> torch.Tensor:
        """What one encoder is shown of an image or video: (layout.views, 3, height, width) uint8."""
        encoder = self.encoders[part]
        return self.framing.views(images, layout, encoder.size, encoder.patch, encoder.spec.mean)

    def look(self, visuals: Sequence[Sequence[Image.Image]]) -> Seen:
        """What all encoders are shown.

        Args:
            visuals: images, each alone in its list, or the frames of videos.
        """
        layouts = tuple(self.framing.layout(*images[0].size, len(images)) for images in visuals)
        seeds = [seed for pair in zip(visuals, layouts, strict=True) for seed in view_seeds(*pair)]
        views = []
        for part in range(len(self.parts)):
            pairs = zip(visuals, layouts, strict=True)
            views.append(runs([self.part_views(part, images, layout) for images, layout in pairs]))
        return Seen(layouts, torch.tensor(seeds, dtype=torch.long), tuple(views))

    def encode(self, seen: Seen) -> tuple[Features, ...]:
        """The features of each encoder, from its views."""
        return tuple(
            encode_views(part, views, seen.seeds) for part, views in zip(self.encoders, seen.views, strict=True)
        )

    def features(self, seen: Seen) -> tuple[Features, ...]:
        """What the connectors are given, of the shapes `shapes` for square views."""
        return self.joining.features(seen.features or self.encode(seen))


def view_seeds(images: Sequence[Image.Image], layout: Layout) -> list[int]:
    """A seed for each view: the first one of an image or frame has its content seed, others one made of that."""
    own = layout.views // layout.frames
    return [_mixed(seed, view) for seed in map(content_seed, images) for view in range(own)]


def _mixed(seed: int, view: int) -> int:
    if not view:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{view}".encode()).digest()[:8], "big") >> 1


def runs(views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Views in their order, with those of one size that follow each other in one tensor."""
    runs: list[list[torch.Tensor]] = []
    for one in views:
        if runs and runs[-1][0].shape[1:] == one.shape[1:]:
            runs[-1].append(one)
        else:
            runs.append([one])
    return tuple(torch.cat(run) for run in runs)


def encode_views(encoder: Encoder, views: Sequence[torch.Tensor], seeds: torch.Tensor) -> Features:
    """An encoder's features of views, which come as `runs` gives them."""
    maps: list[torch.Tensor] = []
    for run in views:
        begin = sum(len(one) for one in maps)
        maps.append(encoder.encode(run, seeds[begin : begin + len(run)]))
    return Features.of_maps(maps[0]) if len(maps) == 1 else Features.padded([one for run in maps for one in run])


def build_representation(
    representation: Representation,
    registry: Registry,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionRepresentation:
    """Build the encoders that a candidate names, framed and joined. Its connector is not part of them.

    Args:
        representation: the candidate.
        registry: the known encoders.
        device: where the encoders compute; "meta" builds shapes without weights.
        dtype: their precision.

    Raises:
        SpaceError: an encoder is unknown, its weights cannot be used, or it cannot be shown images as the framing does.
    """
    parts = [make_encoder(part, registry, device=device, dtype=dtype) for part in representation.parts]
    return VisionRepresentation(parts, representation.joining, representation.framing)
