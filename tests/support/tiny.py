"""Tiny random checkpoints in Hugging Face's formats, and data to train them on: the real loading code, in seconds."""

from __future__ import annotations

import gc
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import trainers  # noqa: F401  the torchvision guard

WORDS = tuple("a red blue green circle square what colour is the shape ? it . big small user: assistant:".split())  # noqa: SIM905
CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}user: {{ m.content }} {% else %}assistant: {{ m.content }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

STUDY = """
name: tiny
title: Tiny random checkpoints
training:
  candidates: [clip@32, siglip@32, clip@32+siglip@32]
  encoders: [encoders.yaml]
  connector: pool@2
  llm: llm
  template: chat
  prepare:
    call: "studies.micro.data:prepare"
    sizes: {captions: 24, heldout: 8, instruct: 24, per_benchmark: 12, pairs: 12, pair_images: 8}
  alignment: {definition: A_ll, data: captions_heldout.parquet, samples: 8}
  correspondence: {definition: C, pairs: pairs}
  align:
    data: captions.parquet
    template: plain
    train: {connector: {mode: full, lr: 3e-3}}
    batch: 4
    micro_batch: 4
    longest: 160
    checkpoint_every: 1
    cache_features: true
    expect: {samples: 24, text_tokens: 40}
  finetune:
    data: instruct.parquet
    template: chat
    train: {connector: {mode: full, lr: 3e-3}, llm: {mode: full, lr: 3e-3}}
    batch: 4
    micro_batch: 2
    longest: 250
    checkpoint_every: 1
    cache_features: true
    expect: {samples: 24, text_tokens: 100}
  benchmarks: [micro_attribute, micro_existence]
  evaluation:
    batch_size: 4
    data: {micro_attribute: benchmarks/attribute.parquet, micro_existence: benchmarks/existence.parquet}
"""


@contextmanager
def one_thread() -> Iterator[None]:
    """More threads only wait for each other at these sizes. What has been imported is no garbage to look for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def tokenizer() -> Any:
    """Word-level: <pad> is 0, <s> 1, </s> 2, <unk> 3, and the words follow from 4 on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    made.chat_template = CHAT
    return made


def llm(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A causal language model of width 32. kind: llama or qwen2.  changes: of its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": True} | changes
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = model(
            config(
                **{"vocab_size": len(words), "max_position_embeddings": 256, **shape},
                num_attention_heads=2,
                num_key_value_heads=2,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def encoders(folder: Path) -> Path:
    """A registry file with `clip@32` and `siglip@32`, of 4 x 4 patches and width 24 and 16."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
    from transformers.utils import logging

    logging.disable_progress_bar()
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


def rank(job: Any, folder: Path, number: int = 0, world: int = 1, port: int = 0) -> None:
    """Train a stage as one of several processes; what a process started by torchrun finds, and does."""
    from trainers.training.train import run_stage

    torch.set_num_threads(1)
    if world > 1:
        places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    run_stage(job, folder)


def video(path: Path, colours: list[str], size: tuple[int, int] = (32, 24)) -> Path:
    """A film with a frame of each colour."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = size
        for number, colour in enumerate(colours):
            for packet in stream.encode(av.VideoFrame.from_image(picture(colour, number, size))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def mixed_manifest(folder: Path, count: int = 12, turns: int = 2) -> Path:
    """Samples with an image, with two of other proportions, with a film of five frames, with text alone, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    video(folder / "film.mp4", ["red", "red", "blue", "blue", "green"])
    samples = []
    for index in range(count):
        colours = [list(COLOURS)[(index + shift) % 3] for shift in range(2)]
        names = [f"mixed-{index}-{place}.png" for place in range(2)]
        for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
            picture(colour, index, [(40, 30), (20, 70)][place]).save(folder / name)
        shown: dict[str, Any] = [{"image": names[0]}, {"image": names}, {"video": "film.mp4"}, {}][index % 4]
        mark = ["<image>\n", "<image> <image>\n", "<video>\n", ""][index % 4]
        said = []
        for turn in range(turns):
            said.append({"from": "human", "value": f"{'' if turn else mark}what colour is the shape ?"})
            said.append({"from": "gpt", "value": f"it is {colours[turn % 2]} ."})
        samples.append({"id": f"mixed-{index}", "conversations": said} | shown)
    path = folder / f"mixed-{turns}.json"
    path.write_text(json.dumps(samples))
    return path
