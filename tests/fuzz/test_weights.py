"""Indices and configurations of weights, damaged: loaded from the files that are hashed, or refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support import fuzzing, tiny
from support.fuzzing import accepted, cases, damaged_bytes, damaged_tree
from support.opened_files import opened
from support.tiny_encoders import PIXELS, SEEDS, make, specs, write_checkpoints
from trainers.model.loading import load_llm
from trainers.pretrained.files import INDEX, read_files

CONFIGS = {"clip": "config.json", "timm": "config.json", "open_clip": "open_clip_config.json", "llm": "config.json"}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NAMES = [
    "shard.bin",
    "trap.safetensors",
    "../outside.safetensors",
    "/etc/passwd",
    "..",
    "",
    "a\0",
    "\ud800.safetensors",
]
NAMES += [*SHARDS, "model.safetensors", "out.safetensors", "deep/in.safetensors", "./trap.safetensors", "x" * 300]
KEYS = ["auto_map", "quantization_config", "_attn_implementation", "attn_implementation", "transformers_weights"]
KEYS += ["fusion_config", "checkpoint_path", "pretrained_cfg", "num_hidden_layers", "hidden_size", "depth", "embed_dim"]
KEYS += ["layers", "width", "patch_size", "image_size", "vocab_size", "num_labels", "model_type", "dtype", "mlp_ratio"]
VALUES = [
    "evil/kernel",
    "trap.safetensors",
    {"AutoModel": "evil.Model"},
    {"quant_method": "gptq"},
    10**6,
    10**9,
    256,
    1e9,
]
TEXTS = (
    "chat_template.jinja",
    "config.json",
    "open_clip_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


class Escaped:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_checkpoints(tmp_path_factory.mktemp("weights"))
    tiny.llm(root / "llm")
    return root


def lay_traps(folder: Path, place: Path) -> None:
    """Files that none of the weights consists of, in the folder and beside it."""
    for name in (
        "shard.bin",
        "trap.safetensors",
        "pytorch_model.bin",
        "evil.py",
        "../outside.safetensors",
        "tower.pth",
    ):
        (folder / name).write_bytes(pickle.dumps(Escaped(place)))
    (folder / "out.safetensors").symlink_to("../outside.safetensors")


def shard(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")
    where = {name: SHARDS[number % 2] for number, name in enumerate(sorted(table))}
    for part in SHARDS:
        save_file(
            {name: table[name] for name in table if where[name] == part}, folder / part, metadata={"format": "pt"}
        )
    (folder / "model.safetensors").unlink()
    (folder / f"model.safetensors{INDEX}").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def damage(draw: fuzzing.Draw, path: Path) -> None:
    """Hostile names in an index; keys and numbers in a configuration, at any depth; or any damage to either."""
    kind, tree = (
        draw(st.sampled_from(["hostile", "hostile", "hostile", "tree", "tree", "bytes"])),
        json.loads(path.read_text()),
    )
    if kind == "bytes":
        path.write_bytes(draw(damaged_bytes(path.read_bytes())))
        return
    if kind == "tree":
        tree = draw(damaged_tree(tree))
    elif path.name.endswith(INDEX):
        for name in draw(st.lists(st.sampled_from(sorted(tree["weight_map"])), min_size=1, max_size=3)):
            tree["weight_map"][name] = draw(st.sampled_from(NAMES) | st.text(max_size=10).map("{}.safetensors".format))
    else:
        inner = [tree, *(value for value in tree.values() if isinstance(value, dict))]
        inner += [value for one in inner[1:] for value in one.values() if isinstance(value, dict)]
        for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2)):
            draw(st.sampled_from(inner))[key] = draw(st.sampled_from(VALUES) | fuzzing.strange())
    path.write_text(json.dumps(tree, default=str))


@cases(500, st.data())
def test_weights(world: Path, tmp_path: Path, damaged: st.DataObject) -> None:
    kind, sharded = damaged.draw(st.sampled_from(sorted(CONFIGS))), damaged.draw(st.booleans())
    folder, escaped = tmp_path / "all" / "weights", tmp_path / "escaped"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(world / kind, folder)
    lay_traps(folder, escaped)
    names = [CONFIGS[kind]]
    if sharded and kind in ("clip", "llm"):
        shard(folder)
        names.append(f"model.safetensors{INDEX}")
    damage(damaged.draw, folder / damaged.draw(st.sampled_from(names)))

    def read() -> set[str]:
        with opened(folder.parent) as files:
            if kind == "llm":
                load_llm(str(folder))
            else:
                encoder = make(replace(specs(world)[kind], weights=str(folder)))
                assert encoder.encode(PIXELS, SEEDS).isfinite().all()
        return files

    files = accepted(read, folder.parent, ["tiny", str(folder)])
    assert not escaped.exists()
    if files is None:
        return
    weights = ("model.safetensors", f"model.safetensors{INDEX}", "open_clip_model.safetensors")
    found = read_files(folder, TEXTS, weights)
    assert files <= {f"weights/{name}" for name in (*found.texts, *found.weights)}
    changed, before = folder.parent / damaged.draw(st.sampled_from(sorted(files))), found.digest()
    changed.write_bytes(changed.read_bytes() + b" ")
    assert read_files(folder, TEXTS, weights).digest() != before
