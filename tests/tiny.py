"""Tiny random checkpoints in Hugging Face's formats, and data to train them on: the real loading code, in seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import acsearch  # noqa: F401  the torchvision guard

WORDS = tuple("a red blue green circle square what colour is the shape ? it . big small user: assistant:".split())  # noqa: SIM905
CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}user: {{ m.content }} {% else %}assistant: {{ m.content }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def llm(folder: Path, kind: str = "llama") -> Path:
    """A causal language model of width 32 with a word-level tokenizer. kind: llama or qwen2."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHAT
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = model(
            config(
                vocab_size=len(names),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoders(folder: Path) -> Path:
    """A registry file with `clip@32` and `siglip@32`, of 4 x 4 patches and width 24 and 16."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        clip = CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=48, **shape))
        siglip = SiglipVisionModel(SiglipVisionConfig(hidden_size=16, intermediate_size=32, **shape))
    rows = []
    for name, model, width, prefix in (("clip", clip, 24, 1), ("siglip", siglip, 16, 0)):
        model.save_pretrained(folder / name)
        rows.append(
            f"{name}: {{adapter: transformers, model: {name}_vision_model, weights: ./{name}, revision: null, "
            f"licence: none, native_size: 32, patch: 8, width: {width}, prefix_tokens: {prefix}, "
            f"mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}"
        )
    path = folder / "encoders.yaml"
    path.write_text("\n".join(rows) + "\n")
    return path


COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30)}


def picture(colour: str, seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """One colour with a little noise."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def manifest(folder: Path, count: int = 24, turns: int = 2) -> Path:
    """A LLaVA JSON with its images: captions (turns 1), or questions and answers. Every eighth sample has no image."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for index in range(count):
        colour = list(COLOURS)[index % 3]
        with_image = turns == 1 or index % 8 != 7
        said = []
        for turn in range(turns):
            mark = "<image>\n" if with_image and turn == 0 else ""
            said.append({"from": "human", "value": f"{mark}what colour is the shape ?"})
            said.append({"from": "gpt", "value": f"it is {colour} ." if turn else colour})
        sample = {"id": f"sample-{index}", "conversations": said}
        if with_image:
            picture(colour, index).save(folder / f"{index}.png")
            sample["image"] = f"{index}.png"
        samples.append(sample)
    path = folder / f"turns-{turns}.json"
    path.write_text(json.dumps(samples))
    return path
