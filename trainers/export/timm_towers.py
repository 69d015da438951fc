"""Plain vision transformers of timm under the names of transformers: the kinds of CLIP, SigLIP and DINOv2."""

from __future__ import annotations

from typing import Any

import torch

from trainers.encoders.timm_ import TimmEncoder
from trainers.errors import TrainingError

_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh"}
_UNLIKE = ("q_norm", "reg_token", "fc_norm", "mlp.w", "rope")  # in names of weights that the three do not have

# Names of timm by those of transformers, without what is the same in all layers
_OUTSIDE = {
    "embeddings.patch_embedding.{end}": "patch_embed.proj.{end}",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.class_embedding": "cls_token",
    "pre_layrnorm.{end}": "norm_pre.{end}",
}
_LAYER = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "self_attn.out_proj": "attn.proj",
}
_DINO_OUTSIDE = {
    "embeddings.patch_embeddings.projection.{end}": "patch_embed.proj.{end}",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.cls_token": "cls_token",
}
_DINO_LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.o_proj": "attn.proj",
}


def convert(encoder: TimmEncoder) -> tuple[Any, dict[str, torch.Tensor]]:
    """A tower's configuration and weights for transformers.

    Raises:
        TrainingError: it is of another kind.
    """
    import transformers

    kind = _kind(encoder)
    if kind is None:
        raise TrainingError(
            f"cannot be exported: {encoder.spec.name} is timm's {encoder.spec.model}; of timm's towers only vision "
            "transformers of the kinds of CLIP, SigLIP and DINOv2 have their like in transformers"
        )
    block, depth = encoder.tower.blocks[0], len(encoder.tower.blocks)
    shape = {
        "hidden_size": encoder.width,
        "num_hidden_layers": depth,
        "num_attention_heads": block.attn.num_heads,
        "image_size": encoder.size,
        "patch_size": encoder.patch,
        "hidden_act": _ACTIVATIONS[type(block.mlp.act).__name__],
        "layer_norm_eps": block.norm1.eps,
    }
    wide = block.mlp.fc1.out_features
    config: Any
    if kind == "dinov2":
        config = transformers.Dinov2Config(**shape, mlp_ratio=wide / encoder.width)
        model = transformers.Dinov2Model
    elif kind == "clip":
        config, model = transformers.CLIPVisionConfig(**shape, intermediate_size=wide), transformers.CLIPVisionModel
    else:
        config = transformers.SiglipVisionConfig(**shape, intermediate_size=wide, vision_use_head=False)
        model = transformers.SiglipVisionModel
    with torch.device("meta"):
        expected = model(config).state_dict()
    found = _renamed(encoder.tower.state_dict(), depth, kind)
    for name, tensor in expected.items():  # the norm after the layers, which is not used, and biases that timm lacks
        if name not in found:
            found[name] = torch.full(tensor.shape, float("norm" in name and name.endswith("weight")))
    return config, {name: found[name].reshape(tensor.shape) for name, tensor in expected.items()}


def _kind(encoder: TimmEncoder) -> str | None:
    from timm.models.vision_transformer import VisionTransformer

    tower, prefix = encoder.tower, encoder.spec.prefix_tokens
    if not isinstance(tower, VisionTransformer) or type(tower.blocks[0].mlp.act).__name__ not in _ACTIVATIONS:
        return None
    names = list(tower.state_dict())
    if any(part in name for name in names for part in _UNLIKE):
        return None
    scaled, normed = any("ls1" in name for name in names), any("norm_pre" in name for name in names)
    kinds = {(1, False, True): "clip", (0, False, False): "siglip", (1, True, False): "dinov2"}
    return kinds.get((prefix, scaled, normed))


def _renamed(table: dict[str, torch.Tensor], depth: int, kind: str) -> dict[str, torch.Tensor]:
    outside, layer = (_DINO_OUTSIDE, _DINO_LAYER) if kind == "dinov2" else (_OUTSIDE, _LAYER)
    stem, attention = ("encoder.layer", "attention") if kind == "dinov2" else ("encoder.layers", "self_attn")
    found = {}
    for end in ("weight", "bias"):
        for theirs, ours in outside.items():
            if ours.format(end=end) in table:
                found[theirs.format(end=end)] = table[ours.format(end=end)]
        for number in range(depth):
            here, there = f"blocks.{number}", f"{stem}.{number}"
            for theirs, ours in layer.items():
                found[f"{there}.{theirs}.{end}"] = table[f"{here}.{ours}.{end}"]
            for one, part in zip("qkv", table[f"{here}.attn.qkv.{end}"].chunk(3), strict=True):
                found[f"{there}.{attention}.{one}_proj.{end}"] = part
    if kind == "dinov2":
        for number in range(depth):
            for scale in (1, 2):
                gamma = table[f"blocks.{number}.ls{scale}.gamma"]
                found[f"{stem}.{number}.layer_scale{scale}.lambda1"] = gamma
    return found
