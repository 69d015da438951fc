"""Encoders built by transformers: CLIP, SigLIP, SigLIP 2, DINOv2 (and registers), DINOv3, ViT, MAE, I-JEPA, AIMv2.

The configuration is cut to the chosen layer before loading, so what comes after it is neither read, kept nor computed;
the feature is that layer's output, caught before the trunk's final norm. Position embeddings are resampled at every
call from the checkpoint's table, which is never written. A repository's own code is never run, and the vision tower is
also taken out of a whole CLIP or SigLIP.

Weights: a hub id or folder with `config.json` and `model.safetensors` (or a sharded one's index). `model` is the
configuration's model type and may be left out where there are weights. Options are values of the configuration, for
building the shape on the meta device, where no config.json is read.

A new family is one line in `TOWERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers.utils import logging

from trainers.encoders.base import Encoder, block_index, check_prefix
from trainers.encoders.spec import EncoderSpec
from trainers.encoders.weights import WeightsFiles, check_options, local_configuration, open_weights
from trainers.errors import SpaceError
from trainers.pretrained.configuration import make_config
from trainers.pretrained.tensors import check_fits

WEIGHTS = WeightsFiles(("model.safetensors", "model.safetensors.index.json"), "config.json")
Inputs = Callable[[torch.Tensor, int], dict[str, Any]]


def _any_size(images: torch.Tensor, patch: int) -> dict[str, Any]:
    """For towers that take images of any size."""
    return {"pixel_values": images}


def _resampled(images: torch.Tensor, patch: int) -> dict[str, Any]:
    return {"pixel_values": images, "interpolate_pos_encoding": True}


def _unmasked(images: torch.Tensor, patch: int) -> dict[str, Any]:
    """MAE's tower shuffles the patches and drops most, unless told to keep all (mask_ratio 0) in their order."""
    tokens = (images.shape[-2] // patch) * (images.shape[-1] // patch)
    order = torch.arange(tokens, dtype=torch.float32, device=images.device).expand(len(images), tokens)
    return {"pixel_values": images, "interpolate_pos_encoding": True, "noise": order}


def _patches(images: torch.Tensor, patch: int) -> dict[str, Any]:
    """SigLIP 2's NaFlex tower takes patches, row by row, each with its pixels row by row and channels last."""
    batch, height, width = len(images), images.shape[-2] // patch, images.shape[-1] // patch
    cut = images[..., : height * patch, : width * patch].reshape(batch, 3, height, patch, width, patch)
    rows = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, height * width, patch * patch * 3)
    shapes = torch.tensor([[height, width]] * batch)
    return {
        "pixel_values": rows,
        "pixel_attention_mask": torch.ones(batch, height * width, device=images.device, dtype=torch.int64),
        "spatial_shapes": shapes,
    }


@dataclass(frozen=True)
class Tower:
    """How a family of vision towers is built and called.

    Attributes:
        model: name of the class in transformers.
        layers: path of the list of blocks within the model.
        inputs: makes the arguments of a call from (images, patch).
        changes: values that replace those of the configuration, to leave out what comes after the blocks or is only
            for training.
        fixed: whether a tower of this configuration takes no other image size than its own.
    """

    model: str
    layers: str
    inputs: Inputs
    changes: dict[str, Any] = field(default_factory=dict)
    fixed: Callable[[Any], bool] = lambda config: False


# By the configuration's model type.
TOWERS = {
    "clip_vision_model": Tower("CLIPVisionModel", "encoder.layers", _resampled),
    "siglip_vision_model": Tower("SiglipVisionModel", "encoder.layers", _resampled, {"vision_use_head": False}),
    "siglip2_vision_model": Tower("Siglip2VisionModel", "encoder.layers", _patches, {"vision_use_head": False}),
    "dinov2": Tower("Dinov2Model", "encoder.layer", _any_size),
    "dinov2_with_registers": Tower("Dinov2WithRegistersModel", "encoder.layer", _any_size),
    "dinov3_vit": Tower("DINOv3ViTModel", "model.layer", _any_size),
    "vit": Tower("ViTModel", "layers", _resampled),
    "vit_mae": Tower("ViTMAEModel", "layers", _unmasked, {"mask_ratio": 0.0}),
    "ijepa": Tower("IJepaModel", "layers", _resampled),
    "aimv2_vision_model": Tower(
        "Aimv2VisionModel", "encoder.layers", _any_size, {"use_head": False}, lambda config: not config.is_native
    ),
}


class TransformersEncoder(Encoder):
    """A tower of transformers whose last block is the chosen layer."""

    tower: Any

    def __init__(self, spec: EncoderSpec, size: int, tower: Any, layer: int, digest: str, family: Tower) -> None:
        super().__init__(
            spec, size, layer, digest=digest, patch=_side(tower.config.patch_size), width=tower.config.hidden_size
        )
        self.tower = tower
        self.family = family
        self.any_shape = not family.fixed(tower.config)

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        last = self.tower.get_submodule(self.family.layers)[-1]
        handle = last.register_forward_hook(lambda block, given, output: caught.append(output))
        try:
            self.tower(**self.family.inputs(images.to(self.tower.dtype), self.patch))
        finally:
            handle.remove()
        tokens = caught[0]  # (batch, prefix + height * width, channels)
        grid = self.grid_of(*images.shape[2:])
        check_prefix(self.spec, tokens.shape[1] - grid[0] * grid[1])
        return tokens[:, self.spec.prefix_tokens :].reshape(len(tokens), *grid, -1)


def load(spec: EncoderSpec, size: int, layer: int, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Build an encoder of transformers; see `trainers.encoders.base.Loader`.

    Raises:
        SpaceError: the model type is unknown, or the weights do not fit it.
    """
    if device.type == "meta":
        config = _vision(spec, _described(spec))
        family, position = _cut(spec, config, size, layer)
        return TransformersEncoder(spec, size, _shape(family, config), position, "meta", family).freeze(device)
    with open_weights(spec, WEIGHTS.names, WEIGHTS.configuration) as weights:
        config = _vision(spec, _read(spec, weights.configuration))
        family, position = _cut(spec, config, size, layer)
        check_fits(_shape(family, config), weights.size)
        try:
            with _quietly():
                tower, report = getattr(transformers, family.model).from_pretrained(
                    weights.folder,
                    config=config,
                    dtype=dtype,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise SpaceError(
                f"transformers cannot load the weights of {spec.name!r} in '{weights.source}': "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
    missing = [key for key in report["missing_keys"] if key.startswith(("embeddings.", family.layers + "."))]
    if missing:
        raise SpaceError(
            f"the weights of {spec.name!r} in '{weights.source}' lack {len(missing)} tensors, such as {missing[0]!r}"
        )
    return TransformersEncoder(spec, size, tower, position, weights.digest, family).freeze(device)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without the list of the layers that are left out on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _described(spec: EncoderSpec) -> Any:
    """The configuration for the shape alone: that of a local folder, else what the row says."""
    if (local := local_configuration(spec, "config.json")) is not None:
        return _read(spec, local)
    check_options(spec, spec.options)
    return transformers.AutoConfig.for_model(spec.model or "", **spec.options)


def _read(spec: EncoderSpec, described: dict[str, Any] | None) -> Any:
    try:
        return make_config(described or {})
    except (OSError, ValueError) as error:
        raise SpaceError(
            f"transformers {transformers.__version__} cannot read the configuration of {spec.name!r} in "
            f"'{spec.weights}', and acsearch never runs a repository's own code: {' '.join(str(error).split())[:200]}"
        ) from error


def _shape(family: Tower, config: Any) -> Any:
    with torch.device("meta"):
        return getattr(transformers, family.model)(config)


def _vision(spec: EncoderSpec, config: Any) -> Any:
    """The vision tower's configuration, out of a whole model's where it is one."""
    vision = config.vision_config if "vision_config" in config.sub_configs else config
    if vision.model_type not in TOWERS:
        raise SpaceError(
            f"{spec.name!r} is of transformers' model type {vision.model_type!r}, which is not among those known here: "
            f"{', '.join(TOWERS)}"
        )
    if spec.model is not None and spec.model not in (vision.model_type, config.model_type):
        raise SpaceError(f"{spec.name!r} declares the model {spec.model!r}, but its weights are {vision.model_type!r}")
    for count in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        if getattr(vision, count, 1) < 1:
            raise SpaceError(f"the configuration of {spec.name!r} is damaged: {count} is {getattr(vision, count)}")
    return vision


def _cut(spec: EncoderSpec, config: Any, size: int, layer: int) -> tuple[Tower, int]:
    """Cuts the configuration after the layer; returns the tower's family and the layer counted from the end."""
    depth = config.num_hidden_layers
    block = block_index(spec, layer, depth)
    family = TOWERS[config.model_type]
    if family.fixed(config) and size != config.image_size:
        raise SpaceError(
            f"{spec.name}@{size}: transformers builds {config.model_type!r} for {config.image_size} pixels alone"
        )
    config.num_hidden_layers = block + 1
    for key, value in family.changes.items():
        setattr(config, key, value)
    return family, block - depth


def _side(patch_size: int | list[int] | tuple[int, ...]) -> int:
    return patch_size if isinstance(patch_size, int) else patch_size[0]
