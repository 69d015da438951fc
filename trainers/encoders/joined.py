"""A vision representation: one or more frozen encoders, joined into one map of features.

representation = build_representation(parse("clip-l14@224+dinov2-l14@224"), load_registry(), device="cuda")
views = representation.views(image)                                     # one (3, 224, 224) uint8 for each part
representation.encode([view[None] for view in views], seeds)            # (1, 16, 16, 2048)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from trainers.encoders import Encoder, Registry, make_encoder
from trainers.encoders.images import LETTERBOX, fit, pixels
from trainers.representation import Joining, Representation


class VisionRepresentation(nn.Module):
    """One or more frozen encoders, whose maps are joined.

    Attributes:
        parts: the encoders.
        joining: how their channels become one map.
        policy: how images are fitted into squares; the same for all encoders, so that their cells line up.
        grid: (height, width) of the joined map.
        width: channels of the joined map, the sum of the encoders'.
    """

    def __init__(self, parts: Sequence[Encoder], joining: Joining, policy: str = LETTERBOX) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.joining = joining
        self.policy = policy
        self.grid = parts[0].grid if joining.grid is None else (joining.grid, joining.grid)
        self.width = sum(part.width for part in parts)

    @property
    def encoders(self) -> list[Encoder]:
        """The parts with their type, which a ModuleList does not know."""
        return [part for part in self.parts if isinstance(part, Encoder)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the features but the precision: encoders, joining and policy."""
        names = [part.fingerprint for part in self.encoders] + [str(self.joining), self.policy]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def views(self, image: Image.Image) -> tuple[torch.Tensor, ...]:
        """What each encoder is shown: (3, size, size) uint8, with bars of its mean colour, which becomes about 0."""
        return tuple(pixels(fit(image, part.size, part.spec.mean, self.policy)) for part in self.encoders)

    def encode(self, views: Sequence[torch.Tensor], seeds: torch.Tensor) -> torch.Tensor:
        """The joined features of a batch of images.

        Args:
            views: (batch, 3, size, size) uint8 of each encoder.
            seeds: (batch,) the images' content seeds.

        Returns:
            (batch, *grid, width).
        """
        features = [part.encode(view, seeds) for part, view in zip(self.encoders, views, strict=True)]
        return join(features, self.joining)


def join(features: Sequence[torch.Tensor], joining: Joining) -> torch.Tensor:
    """Join the maps of several encoders into one map with all their channels.

    The common grid is the joining's, else the first part's; other maps are resampled to it, bilinearly and, where it
    is coarser, antialiased. "normconcat" gives each part unit length at every location, before and after resampling,
    so that the cosine similarity of two joined features is the mean of their parts' cosine similarities; in a plain
    concat the part with the longest features dominates it.

    Args:
        features: (batch, height, width, channels) of each encoder.
        joining: how they are joined, and on which grid.
    """
    grid = tuple(features[0].shape[1:3]) if joining.grid is None else (joining.grid, joining.grid)
    normalised = joining.kind == "normconcat"
    joined = []
    for feature in features:
        if normalised:
            feature = functional.normalize(feature, dim=-1)
        if tuple(feature.shape[1:3]) != grid:
            feature = _resample(feature, grid)
            feature = functional.normalize(feature, dim=-1) if normalised else feature
        joined.append(feature)
    return torch.cat(joined, dim=-1)


def _resample(feature: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    channels_first = feature.permute(0, 3, 1, 2).float()  # half precision cannot be antialiased on a CPU
    resampled = functional.interpolate(channels_first, size=grid, mode="bilinear", align_corners=False, antialias=True)
    return resampled.permute(0, 2, 3, 1).to(feature.dtype)


def build_representation(
    representation: Representation,
    registry: Registry,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    policy: str = LETTERBOX,
) -> VisionRepresentation:
    """Build the encoders that a candidate names, joined. Its connector is not part of them.

    Args:
        representation: the candidate.
        registry: the known encoders.
        device: where the encoders compute; "meta" builds shapes without weights.
        dtype: their precision.
        policy: how images are fitted into squares.

    Raises:
        SpaceError: an encoder is unknown, or its weights cannot be used.
    """
    parts = [make_encoder(part, registry, device=device, dtype=dtype) for part in representation.parts]
    return VisionRepresentation(parts, representation.joining, policy)
