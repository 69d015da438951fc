"""The tower of an encoder as transformers has it, cut after the encoder's layer as it is here.

LLaVA in transformers takes hidden states of one layer, and drops either the first token of them or none. So a tower has
one prefix token or none; with registers there is no way to say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainers.encoders.base import Encoder
from trainers.encoders.timm_ import TimmEncoder
from trainers.encoders.transformers_ import TransformersEncoder
from trainers.errors import TrainingError
from trainers.export.timm_towers import convert

# By model type: the position table, where images of one size alone are taken
_TABLES = {
    "clip_vision_model": "embeddings.position_embedding.weight",
    "siglip_vision_model": "embeddings.position_embedding.weight",
    "dinov2": None,
}


@dataclass(frozen=True)
class Tower:
    """A vision tower of transformers.

    Attributes:
        config: describes it.
        weights: by name.
        prefix_tokens: tokens before those of the patches, 0 or 1.
    """

    config: Any
    weights: dict[str, torch.Tensor]
    prefix_tokens: int


def as_transformers(encoder: Encoder) -> Tower:
    """The tower of an encoder.

    Raises:
        TrainingError: transformers' LLaVA has no such tower; the message says what it lacks.
    """
    if encoder.spec.prefix_tokens > 1:
        raise TrainingError(
            f"cannot be exported: {encoder.spec.name} has {encoder.spec.prefix_tokens} prefix tokens, and LLaVA in "
            "transformers drops one or none"
        )
    if isinstance(encoder, TransformersEncoder):
        return _own(encoder)
    if type(encoder) is TimmEncoder:
        return Tower(*convert(encoder), encoder.spec.prefix_tokens)
    raise _unknown(encoder, f"is built by {encoder.spec.adapter}")


def _own(encoder: TransformersEncoder) -> Tower:
    described = encoder.tower.config.to_dict()
    for key in ("out_features", "out_indices", "stage_names"):  # of backbones, about layers that are gone
        described.pop(key, None)
    config = type(encoder.tower.config).from_dict(described)
    if config.model_type not in _TABLES:
        raise _unknown(encoder, f"is a {config.model_type}")
    weights = dict(encoder.tower.state_dict())
    table = _TABLES[config.model_type]
    if table is not None and config.image_size != encoder.size:  # resampled here at every call, there never
        side = torch.empty(1, (encoder.size // encoder.patch) ** 2 + encoder.spec.prefix_tokens, encoder.width)
        embeddings = encoder.tower.embeddings
        resampled = embeddings.interpolate_pos_encoding(side, encoder.size, encoder.size)
        weights[table] = resampled.detach().squeeze(0).clone()
        config.image_size = encoder.size
    return Tower(config, weights, encoder.spec.prefix_tokens)


def _unknown(encoder: Encoder, what: str) -> TrainingError:
    return TrainingError(
        f"cannot be exported: {encoder.spec.name} {what}; LLaVA in transformers takes towers of {', '.join(_TABLES)}"
    )
