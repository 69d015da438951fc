"""Encoders built by open_clip: the vision towers of its CLIP and CoCa models that are vision transformers of its own.

Towers that open_clip itself takes from timm (SigLIP, EVA, ConvNeXt, ...) belong to the timm adapter. Position
embeddings are resampled as the checkpoint is loaded, from the checkpoint's own table.

Weights: a hub id or folder with `open_clip_config.json` and `open_clip_model.safetensors`. `model` is open_clip's name
of the architecture ("ViT-bigG-14"; "ViT-L-14-quickgelu" for what was trained with QuickGELU) and may be left out for a
folder. There are no options.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from trainers.encoders.base import Encoder, block_index, check_prefix
from trainers.encoders.import_block import without
from trainers.encoders.spec import EncoderSpec
from trainers.encoders.weights import WeightsFiles, local_configuration, open_weights
from trainers.errors import SpaceError
from trainers.pretrained.tensors import check_fits

with without("wandb"):  # it imports timm; see there
    import open_clip
    from open_clip.model import resize_pos_embed
    from open_clip.transformer import VisionTransformer

NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
CONFIGURATION = "open_clip_config.json"
WEIGHTS = WeightsFiles(NAMES, CONFIGURATION)
_CLASS_TOKENS = 1  # every one of its vision transformers has it

# open_clip builds both towers or none; the text tower is made this small and dropped
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenClipEncoder(Encoder):
    """open_clip's vision transformer, cut after one block."""

    tower: Any

    def __init__(self, spec: EncoderSpec, size: int, tower: VisionTransformer, layer: int, digest: str) -> None:
        depth = len(tower.transformer.resblocks)
        self.block = block_index(spec, layer, depth)
        width = tower.class_embedding.shape[0]
        super().__init__(spec, size, self.block - depth, digest=digest, patch=tower.patch_size[0], width=width)
        check_prefix(spec, _CLASS_TOKENS)
        tower.prune_intermediate_layers([self.block], prune_norm=True, prune_head=True)
        self.tower = tower

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        dtype = self.tower.conv1.weight.dtype
        found = self.tower.forward_intermediates(
            images.to(dtype), indices=[self.block], stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        feature: torch.Tensor = found["image_intermediates"][0]
        return feature.permute(0, 2, 3, 1)


def load(spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Build an encoder of open_clip; see `trainers.encoders.base.Loader`.

    Raises:
        SpaceError: the model is unknown, or the weights do not fit it.
    """
    if device.type == "meta":
        with device:
            model = _create(spec, _configuration(spec, local_configuration(spec, CONFIGURATION)), size)
        return OpenClipEncoder(spec, size, model.visual, layer, "meta").freeze(device, dtype)
    with open_weights(spec, NAMES, CONFIGURATION) as weights:
        configuration = _configuration(spec, weights.configuration)
        with torch.device("meta"):
            shape = _create(spec, configuration, size)
        check_fits(shape.visual, weights.size, resampled="positional_embedding")
        model = _create(spec, configuration, size)
        table = {name: value for name, value in load_file(weights.file).items() if name.startswith("visual.")}
    resize_pos_embed(table, model)
    try:
        model.visual.load_state_dict({name.removeprefix("visual."): value for name, value in table.items()})
    except RuntimeError as error:
        raise SpaceError(
            f"the weights of {spec.name!r} ('{weights.source}') do not fit open_clip's {spec.model or 'model'}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    return OpenClipEncoder(spec, size, model.visual, layer, weights.digest).freeze(device, dtype)


def _configuration(spec: EncoderSpec, described: dict[str, Any] | None) -> dict[str, Any]:
    """The model's configuration: open_clip's own of `model`, else the folder's."""
    known: dict[str, Any] | None = None if spec.model is None else open_clip.get_model_config(spec.model)
    if known is None and spec.model is None and described is not None:
        known = described.get("model_cfg")
    if known is None:
        raise SpaceError(
            f"open_clip has no model {spec.model!r} for {spec.name!r}; give one of open_clip.list_models() as 'model', "
            f"or none and a folder with {CONFIGURATION}"
        )
    return known


def _create(spec: EncoderSpec, configuration: dict[str, Any], size: int) -> Any:
    vision = {**configuration["vision_cfg"], "image_size": size}
    if vision.get("timm_model_name") or isinstance(vision["layers"], list):
        raise SpaceError(
            f"open_clip's {spec.model or 'model'} of {spec.name!r} has a vision tower that is not its own vision "
            "transformer; use the adapter 'timm' with timm's name of it"
        )
    return open_clip.CLIP(
        configuration["embed_dim"], vision, _NO_TEXT, quick_gelu=configuration.get("quick_gelu", False)
    )
