"""The precision in which a stage computes, and with it everything that is measured on its model; and of its parts.

In half precision all products are in bf16. What is frozen is kept in bf16, which halves its memory; what is trained is
kept in float32, and so are its gradients and the optimizer's moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from trainers.job import Stage, Tune

Precision = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precision(asked: Literal["auto", "fp32", "bf16"]) -> Precision:
    """What `trainers.job.Stage.precision` is on this machine: auto is bf16 with a GPU and fp32 without."""
    if asked == "auto":
        return "bf16" if torch.cuda.is_available() else "fp32"
    return asked


def dtype_of(precision: Precision) -> torch.dtype:
    """A precision as torch's type."""
    return _DTYPES[precision]


@dataclass(frozen=True)
class PartTypes:
    """The types of a model's weights.

    Attributes:
        vision: of the encoders.
        connector: of the connector.
        llm: of the language model.
    """

    vision: torch.dtype = torch.float32
    connector: torch.dtype = torch.float32
    llm: torch.dtype = torch.float32


def training_types(stage: Stage) -> PartTypes:
    """The types in which a stage keeps weights: float32 for those that are trained in full, else as it computes."""
    computes = dtype_of(precision(stage.precision))

    def kept(part: str) -> torch.dtype:
        return torch.float32 if stage.train.get(part, Tune()).mode == "full" else computes  # LoRA's own are float32 too

    return PartTypes(kept("vision"), kept("connector"), kept("llm"))
