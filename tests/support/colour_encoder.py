"""An encoder without weights, which sees colours."""

from __future__ import annotations

import torch

from trainers.encoders import Encoder, EncoderSpec
from trainers.encoders.joined import VisionRepresentation
from trainers.representation import Choice


class Colours(Encoder):
    """Each cell's mean colour once normalised: an encoder that sees, without weights."""

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, self.grid_of(*images.shape[2:]))
        return pooled.permute(0, 2, 3, 1)


def colours(size: int, patch: int = 4, name: str = "colours") -> Colours:
    spec = EncoderSpec(
        name, "colours", None, None, None, "none", size, patch, 3, 0, mean=(0.47, 0.47, 0.47), std=(0.2, 0.2, 0.2)
    )
    return Colours(spec, size, -1, digest="")


def vision(*sizes: int, joining: str = "concat", framing: str = "letterbox") -> VisionRepresentation:
    return VisionRepresentation([colours(size) for size in sizes], Choice(joining), Choice(framing))
