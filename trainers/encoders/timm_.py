"""Encoders built by timm.

Layers come from `forward_intermediates`, whose index -2 is Hugging Face's hidden_states[-2] without prefix tokens; the
blocks after the chosen one are removed. Three traps are avoided here:

- **QuickGELU.** OpenAI's CLIP, MetaCLIP and DFN were trained with x * sigmoid(1.702 x), and timm builds GELU under
  their plain names. The `_clip_quickgelu_` names are right, and a plain one whose notes say so is refused.
- **crop_pct** and timm's transforms belong to classification. Images arrive here already fitted.
- **Position embeddings** are resampled by timm as the checkpoint is loaded, from the checkpoint's own table. SAM does
  it at every call instead, from the same table; the option takes_any_size says so of a tower. With the option
  dynamic_img_size a ViT does both, and takes rectangles too.

Weights: a hub id or folder with `model.safetensors` and `config.json` in timm's format, or a safetensors file.
`model` may be left out for a folder. Options are takes_any_size, and arguments of the model (patch_size, embed_dim,
depth, num_classes, ...) over those of the folder's `model_args`; img_size is always the encoder's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch

from trainers.encoders.base import Encoder, block_index, check_prefix
from trainers.encoders.import_block import without
from trainers.encoders.spec import EncoderSpec
from trainers.encoders.weights import Weights, WeightsFiles, check_options, local_configuration, open_weights
from trainers.errors import SpaceError
from trainers.pretrained.tensors import check_fits

with without("wandb"):  # for a summary that nobody asks for here: four seconds
    import timm
    from timm.models import PretrainedCfg, build_model_with_cfg, get_pretrained_cfg, is_model

WEIGHTS = WeightsFiles(("model.safetensors",), "config.json", bare=True)

# Arguments that say where timm gets weights from and what it makes of a model, some of which are paths
_OURS = frozenset({*signature(timm.create_model).parameters, *signature(build_model_with_cfg).parameters})
_OURS |= {"features_only", "out_indices", "device", "dtype"}


class TimmEncoder(Encoder):
    """A timm tower, cut after one block or stage."""

    tower: Any

    def __init__(self, spec: EncoderSpec, size: int, tower: Any, layer: int, digest: str) -> None:
        levels = tower.feature_info  # one entry for each block or stage
        self.block = block_index(spec, layer, len(levels))
        reached = levels[self.block]
        super().__init__(
            spec, size, self.block - len(levels), digest=digest, patch=reached["reduction"], width=reached["num_chs"]
        )
        check_prefix(spec, getattr(tower, "num_prefix_tokens", 0))  # convolutional towers have no such thing
        tower.prune_intermediate_layers([self.block], prune_norm=True, prune_head=True)
        self.tower = tower
        self.any_shape = bool(getattr(tower, "dynamic_img_size", False))

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        dtype = next(self.tower.parameters()).dtype
        (feature,) = self.tower.forward_intermediates(
            images.to(dtype),
            indices=[self.block],
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        features: torch.Tensor = feature.permute(0, 2, 3, 1)
        return features


def load(spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Build an encoder of timm; see `trainers.encoders.base.Loader`.

    Raises:
        SpaceError: the model is unknown, or the weights do not fit it.
    """
    return load_as(TimmEncoder, spec, spec.options, size, layer, device=device, dtype=dtype)


def load_as(
    kind: type[TimmEncoder],
    spec: EncoderSpec,
    options: Mapping[str, Any],
    size: int,
    layer: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Encoder:
    """Build an encoder of timm as an instance of a subclass.

    Args:
        kind: the class.
        spec: what the encoder is.
        options: arguments of timm's model, out of the spec's options.
        size: side of the square image, in pixels.
        layer: counted as in `EncoderSpec`.
        device: where it computes; "meta" builds the shape without weights.
        dtype: its precision.

    Raises:
        SpaceError: the model is unknown, or the weights do not fit it.
    """
    if device.type == "meta":
        architecture, arguments, _ = _describe(spec, options, local_configuration(spec, "config.json"))
        with device:
            tower = _create(spec, architecture, arguments, size, None)
        return kind(spec, size, tower, layer, "meta").freeze(device, dtype)
    with open_weights(spec, WEIGHTS.names, WEIGHTS.configuration, bare=WEIGHTS.bare) as weights:
        architecture, arguments, tag = _describe(spec, options, weights.configuration)
        _refuse_wrong_gelu(spec, architecture, tag)
        with torch.device("meta"):
            shape = _create(spec, architecture, arguments, size, None)
        check_fits(shape, weights.size, resampled="pos")
        tower = _create(spec, architecture, arguments, size, weights)
    return kind(spec, size, tower, layer, weights.digest).freeze(device, dtype)


def _describe(
    spec: EncoderSpec, options: Mapping[str, Any], described: dict[str, Any] | None
) -> tuple[str | None, dict[str, Any], str | None]:
    """The architecture, its arguments and the weights' tag, as the row and a config.json in timm's format say."""
    described = described or {}
    arguments = {**described.get("model_args", {}), **options}
    if own := arguments.keys() & _OURS:
        raise SpaceError(
            f"{min(own)!r} among the arguments of {spec.name!r} is no property of a tower but of how timm loads one, "
            "which acsearch decides; remove it"
        )
    check_options(spec, options)
    return spec.model or described.get("architecture"), arguments, described.get("pretrained_cfg", {}).get("tag")


def _create(spec: EncoderSpec, name: str | None, arguments: dict[str, Any], size: int, weights: Weights | None) -> Any:
    """The whole tower at `size`, with the weights (all of them: timm is strict as long as classes agree)."""
    if name is None or not is_model(name.partition(".")[0]):
        raise SpaceError(
            f"{name!r} of the encoder {spec.name!r} is not a model of timm {timm.__version__}; 'model' in its row, or "
            "'architecture' in its folder's config.json, must be one"
        )
    _refuse_wrong_gelu(spec, name, None)
    overlay: dict[str, Any] = {"file": str(weights.file) if weights else None, "custom_load": False}
    if "num_classes" in arguments:
        overlay["num_classes"] = arguments["num_classes"]
    takes_any_size = arguments.get("takes_any_size", not _known(name).fixed_input_size)
    arguments = {key: value for key, value in arguments.items() if key not in ("takes_any_size", "img_size")}
    if not takes_any_size:
        arguments["img_size"] = size
    try:
        return timm.create_model(name, pretrained=weights is not None, pretrained_cfg_overlay=overlay, **arguments)
    except (RuntimeError, TypeError, KeyError) as error:
        raise SpaceError(
            f"timm cannot build {name!r} for {spec.name!r} at {size} pixels"
            + (f" with the weights '{weights.source}'" if weights else "")
            + f": {' '.join(str(error).split())[:300]}"
        ) from error


def _known(name: str) -> PretrainedCfg:
    """What timm knows of a model, or of the weights that a tag after its name says."""
    found = get_pretrained_cfg(name)
    assert found is not None  # that is so for what is not registered, which was refused
    return found


def _refuse_wrong_gelu(spec: EncoderSpec, architecture: str | None, tag: str | None) -> None:
    if architecture is None or "quickgelu" in architecture:
        return
    name = f"{architecture}.{tag}" if tag and "." not in architecture else architecture
    if name not in timm.list_pretrained():
        return
    if any("QuickGELU" in note for note in _known(name).notes or ()):
        right = architecture.replace("_clip_", "_clip_quickgelu_")
        raise SpaceError(
            f"the weights {name!r} of {spec.name!r} were trained with QuickGELU, and timm builds GELU under that name; "
            f"set 'model' to {right!r}"
        )
