"""Tiny random encoders in the formats of transformers, timm and open_clip."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from trainers.encoders import Encoder, EncoderSpec, Registry, make_encoder
from trainers.encoders.transformers_ import TOWERS
from trainers.representation import Part

HALF = (0.5, 0.5, 0.5)
PIXELS = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SEEDS = torch.tensor([11, 12])
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}


def spec(adapter: str, weights: Path | None, **changes) -> EncoderSpec:
    prefix = changes.pop("prefix_tokens", 1)
    return EncoderSpec(
        "tiny", adapter, changes.pop("model", None), None if weights is None else str(weights), None, "MIT",
        32, 8, 32, prefix, HALF, HALF, **changes,
    )  # fmt: skip


def make(given: EncoderSpec, size: int = 32, layer: int | None = None, **where) -> Encoder:
    return make_encoder(Part("tiny", size, layer), Registry({"tiny": given}), **where)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """The same features up to the order of sums."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
SHAPE |= {"patch_size": 8, "image_size": 32}
# By model type: how many prefix tokens, and further values of the configuration
FAMILIES = {
    "clip_vision_model": (1, {"hidden_act": "quick_gelu", "intermediate_size": 128}),
    "siglip_vision_model": (0, {}),
    "siglip2_vision_model": (0, {"num_patches": 16}),
    "dinov2": (1, {}),
    "dinov2_with_registers": (5, {}),
    "dinov3_vit": (5, {"num_register_tokens": 4}),
    "vit": (1, {}),
    "vit_mae": (1, {}),
    "ijepa": (0, {}),
    "aimv2_vision_model": (0, {}),
}


def shuffle_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that every one of them matters (norms and tables start at 1 and 0)."""
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def write_open_clip(clip: transformers.CLIPModel, folder: Path) -> None:
    table = {f"visual.{k}": v for k, v in as_openai(clip.vision_model.state_dict(), depth=4).items()}
    table["visual.proj"] = clip.visual_projection.weight.T
    vision = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 4, "vocab_size": 8, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in table.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def as_openai(weights: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """transformers' names of a CLIP vision tower as OpenAI's, which open_clip and timm read."""
    renamed = {
        "class_embedding": weights["embeddings.class_embedding"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "conv1.weight": weights["embeddings.patch_embedding.weight"],
    }
    for end in ("weight", "bias"):
        renamed[f"ln_pre.{end}"] = weights[f"pre_layrnorm.{end}"]
        renamed[f"ln_post.{end}"] = weights[f"post_layernorm.{end}"]
        for i in range(depth):
            ours, theirs = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
            joined = [weights[f"{theirs}self_attn.{x}_proj.{end}"] for x in "qkv"]
            renamed[f"{ours}attn.in_proj_{end}"] = torch.cat(joined)
            names = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            for a, b in (names | {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}).items():
                renamed[f"{ours}{a}.{end}"] = weights[f"{theirs}{b}.{end}"]
    return renamed


def write_timm(weights: Path, folder: Path) -> None:
    arguments = {**VIT, "num_classes": 16, "img_size": 32}
    config = {"architecture": "vit_large_patch14_clip_quickgelu_224", "model_args": arguments}
    config["pretrained_cfg"] = {"tag": "tiny", "input_size": [3, 32, 32]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights.read_bytes())


def write_checkpoints(root: Path) -> Path:
    """One folder for each family of transformers; "clip" a whole CLIP; "timm" and "open_clip" the same tower again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, (_, values) in FAMILIES.items():
            config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **values})
            shuffle_weights(getattr(transformers, TOWERS[kind].model)(config)).save_pretrained(root / kind)
        vision = json.loads((root / "clip_vision_model" / "config.json").read_text())
        text = {**SHAPE, "vocab_size": 8, "max_position_embeddings": 4, "eos_token_id": 7}
        clip = shuffle_weights(
            transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        )
        clip.save_pretrained(root / "clip")
        write_open_clip(clip, root / "open_clip")
        write_timm(root / "open_clip" / "open_clip_model.safetensors", root / "timm")
    return root


def specs(checkpoints: Path) -> dict[str, EncoderSpec]:
    """One of everything that has weights."""
    found = {kind: spec("transformers", checkpoints / kind, prefix_tokens=FAMILIES[kind][0]) for kind in FAMILIES}
    found["clip"] = spec("transformers", checkpoints / "clip")
    found["timm"] = spec("timm", checkpoints / "timm")
    found["open_clip"] = spec("open_clip", checkpoints / "open_clip")
    found["denoiser"] = spec("denoiser", checkpoints / "timm", options={"noise_level": 0.3})
    return found


EVERY = [*FAMILIES, "clip", "timm", "open_clip", "denoiser"]
