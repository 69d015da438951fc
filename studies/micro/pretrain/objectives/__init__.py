"""The training objectives of the encoders, one family in each file; see `Objective`."""

from __future__ import annotations

from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.objectives.contrastive import Clip, Siglip
from studies.micro.pretrain.objectives.denoising import Denoising
from studies.micro.pretrain.objectives.masked import Masked
from studies.micro.pretrain.objectives.selfdistilled import SelfDistilled
from studies.micro.pretrain.objectives.supervised import Supervised, Untrained

OBJECTIVES: dict[str, type[Objective]] = {
    "clip": Clip,
    "siglip": Siglip,
    "dino": SelfDistilled,
    "mae": Masked,
    "supervised": Supervised,
    "denoiser": Denoising,
    "untrained": Untrained,
}
