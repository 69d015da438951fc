"""Models as LLaVA of transformers: loaded by plain transformers they see and answer the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from support import tiny
from support.vicuna import write_tokenizer
from trainers.errors import TrainingError
from trainers.export import timm_towers
from trainers.export.llava import to_llava
from trainers.job import Parts
from trainers.model.loading import build_model
from trainers.model.multimodal import MultimodalModel

TOWERS = {
    "clip": ("CLIPVisionModel", "clip_vision_model", 1, {"hidden_act": "quick_gelu"}),
    "siglip": ("SiglipVisionModel", "siglip_vision_model", 0, {}),
    "dinov2": ("Dinov2Model", "dinov2", 1, {}),
    "registers": ("Dinov2WithRegistersModel", "dinov2_with_registers", 5, {}),
}
QUESTIONS = ["what colour is the shape ?", "is it big ?", "what is the small red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random towers of four layers, and language models, that differ wherever they can."""
    import transformers

    folder = tmp_path_factory.mktemp("export")
    shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    rows = []
    for seed, (name, (model, kind, prefix, values)) in enumerate(TOWERS.items()):
        torch.manual_seed(seed)
        tower = getattr(transformers, model)(
            transformers.AutoConfig.for_model(kind, **shape, image_size=32, patch_size=8, **values)
        )
        for weight in tower.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        tower.save_pretrained(folder / name)
        rows.append(
            f"{name}: {{adapter: transformers, model: {kind}, weights: ./{name}, licence: none, native_size: 32, "
            f"patch: 8, width: 24, prefix_tokens: {prefix}, mean: [0.48, 0.45, 0.4], std: [0.26, 0.25, 0.27]}}"
        )
    rows += timm_rows(folder)
    (folder / "encoders.yaml").write_text("\n".join(rows))
    tiny.llm(folder / "llama", tie_word_embeddings=False)
    tiny.llm(folder / "qwen2", "qwen2")
    return folder


TIMM = {
    "timm-clip": ("vit_base_patch16_clip_quickgelu_224", 1),
    "timm-siglip": ("vit_base_patch16_siglip_224", 0),
    "timm-dinov2": ("vit_small_patch14_dinov2", 1),
    "timm-registers": ("vit_small_patch14_reg4_dinov2", 5),
    "timm-mae": ("vit_base_patch16_224", 1),
    "timm-convnext": ("convnext_atto", 0),
}


def timm_rows(folder: Path) -> list[str]:
    """Small ones of the kinds of the built-in registry."""
    import timm

    rows = []
    for seed, (name, (model, prefix)) in enumerate(TIMM.items()):
        arguments = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0, "img_size": 32}
        arguments = {} if "convnext" in name else arguments
        torch.manual_seed(seed)
        tower = timm.create_model(model, **arguments)
        for weight in tower.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        (folder / name).mkdir()
        save_file(tower.state_dict(), folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"architecture": model, "model_args": arguments}))
        width, patch, layer = (320, 32, -1) if "convnext" in name else (24, 8, -2)
        rows.append(
            f"{name}: {{adapter: timm, weights: ./{name}, licence: none, native_size: 32, patch: {patch}, "
            f"layer: {layer}, width: {width}, prefix_tokens: {prefix}, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}"
        )
    return rows


def trained(folder: Path, tower: str, llm: str = "llama", template: str = "chat", resize: str = "squash") -> Any:
    """As a finetune leaves it: no weight of the connector is what it was."""
    representation = tower if "@" in tower else f"{tower}@32"
    registry = (folder / "encoders.yaml",)
    parts = Parts(
        representation=representation, llm=str(folder / llm), template=template, encoders=registry, resize=resize
    )
    model = build_model(parts).eval()
    torch.manual_seed(5)
    for weight in [*model.connector.parameters(), *model.llm.parameters()]:
        weight.data += 0.3 * torch.randn_like(weight)
    return model


def written(model: MultimodalModel, tower: str, folder: Path) -> tuple[Any, Any]:
    """Written by us, read by plain transformers."""
    exported = to_llava(model, tower if "@" in tower else f"{tower}@32")
    exported.model.save_pretrained(folder)
    exported.processor.save_pretrained(folder)
    return LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder, backend="pil")


def asked(processor: Any, image: Image.Image, question: str) -> Any:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def picture(seed: int, size: tuple[int, int] = (41, 41)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


def compare(model: MultimodalModel, other: Any, processor: Any, images: list[Image.Image]) -> None:
    ours = model.generate(images, QUESTIONS[: len(images)], 12)
    assert len(set(ours)) > 1
    for image, question, answer in zip(images, QUESTIONS, ours, strict=False):
        inputs = asked(processor, image, question)
        tokens = other.get_image_features(inputs["pixel_values"]).pooler_output[0]
        expected = model.image_tokens([image]).values
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        new = other.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(new, skip_special_tokens=True).strip() == answer


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "tower",
    [
        "clip",
        "siglip",
        "dinov2",
        "clip@32:-1",
        "clip@32:2",
        "clip@48",
        "siglip@48",
        "dinov2@48",
        "timm-clip",
        "timm-siglip",
    ],
)
def test_it_sees_and_answers_the_same(folder: Path, tmp_path: Path, tower: str, llm: str) -> None:
    model = trained(folder, tower, llm)
    other, processor = written(model, tower, tmp_path)
    with torch.inference_mode():
        compare(
            model, other, processor, [picture(seed, size) for seed, size in enumerate([(41, 41), (64, 30), (20, 90)])]
        )


def test_a_tokenizer_of_sentencepiece_codes_what_is_after_an_image_as_a_text_of_its_own(
    folder: Path, tmp_path: Path
) -> None:
    """As Vicuna's; transformers' own would code it as the middle of a text."""
    vicuna = tiny.llm(folder / "vicuna", vocab_size=310, max_position_embeddings=1024, tie_word_embeddings=False)
    for path in vicuna.glob("*token*"):
        path.unlink()
    config = (vicuna / "config.json").read_text()
    write_tokenizer(vicuna)
    (vicuna / "config.json").write_text(config)
    model = trained(folder, "clip", "vicuna", "vicuna_v1")
    other, processor = written(model, "clip", tmp_path / "out")
    with torch.inference_mode():
        compare(model, other, processor, [picture(seed) for seed in range(3)])


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_padded_images_that_are_square_are_the_same(folder: Path, tmp_path: Path, template: str) -> None:
    model = trained(folder, "clip", template=template, resize="letterbox")
    other, processor = written(model, "clip", tmp_path)
    with torch.inference_mode():
        compare(model, other, processor, [picture(seed) for seed in range(3)])
    remarks = " ".join(to_llava(model, "clip@32").remarks)
    assert "not square are padded before they are resized" in remarks
    assert "one token more, <image>" in remarks


def test_the_default_processor_resamples_with_other_rounding(folder: Path, tmp_path: Path) -> None:
    """Of images that need no resampling it gives the same."""
    model = trained(folder, "clip")
    other, _ = written(model, "clip", tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    with torch.inference_mode():
        compare(model, other, processor, [picture(seed, (32, 32)) for seed in range(3)])
        tokens = other.get_image_features(asked(processor, picture(0), "?")["pixel_values"]).pooler_output[0]
        expected = model.image_tokens([picture(0)]).values
    assert (tokens - expected).abs().mean() < 0.01 * expected.abs().mean()


@pytest.mark.parametrize(
    ("representation", "what"),
    [
        ("clip@32+siglip@32", "one tower, and this model several encoders"),
        ("clip@32|pool@2", "knows the connector mlp2x alone"),
        ("clip@32|normconcat@4", "without a common grid"),
        ("registers@32", "registers has 5 prefix tokens, and LLaVA in transformers drops one or none"),
        ("timm-registers@32", "timm-registers has 5 prefix tokens"),
        ("timm-mae@32", "timm-mae is timm's .*of timm's towers only"),
        ("timm-convnext@32", "timm-convnext is timm's .*of timm's towers only"),
        ("noise@224", "noise is built by noise; LLaVA in transformers takes towers of"),
    ],
)
def test_what_cannot_be_expressed_is_named_in_one_line(folder: Path, representation: str, what: str) -> None:
    with pytest.raises(TrainingError, match=f"cannot be exported: .*{what}") as error:
        to_llava(trained(folder, representation), representation)
    assert len(str(error.value).splitlines()) == 1


def test_a_template_without_questions_is_refused(folder: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be exported: the template 'plain' has no questions and answers"):
        to_llava(trained(folder, "clip", template="plain"), "clip@32")


def test_nothing_is_exported_that_does_not_see_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(table: dict[str, torch.Tensor], depth: int, kind: str) -> dict[str, torch.Tensor]:
        found = right(table, depth, kind)
        found["encoder.layers.0.mlp.fc1.bias"] = found["encoder.layers.0.mlp.fc1.bias"] + 0.1
        return found

    right = timm_towers._renamed
    monkeypatch.setattr(timm_towers, "_renamed", wrong)
    with pytest.raises(TrainingError, match="timm-clip gives other features in transformers, at layer -2"):
        to_llava(trained(folder, "timm-clip"), "timm-clip@32")
