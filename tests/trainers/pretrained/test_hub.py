"""Repositories that have only pickles: converted once, whole or not at all, and loaded from what was converted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from support.hub import CachedHub
from support.opened_files import opened
from support.tiny_encoders import PIXELS, SEEDS, make, specs, write_checkpoints
from trainers.errors import SpaceError, TrainingError, WeightsError
from trainers.model.loading import identify_llm, load_llm, pin_llm
from trainers.pretrained import hub as hub_module
from trainers.pretrained.hub import converted_folder, fetch

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llm(tmp_path_factory.mktemp("llm") / "llama", tie_word_embeddings=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}


def saved(content: Any, folder: Path) -> bytes:
    torch.save(content, folder / "saved")
    return (folder / "saved").read_bytes()


def pickled(llm: Path, folder: Path, shards: int = 1) -> dict[str, bytes]:
    """The files of a language model whose repository has pickles alone, as Vicuna's."""
    table, files = load_file(llm / "model.safetensors"), files_of(llm)
    if shards == 1:
        return files | {"pytorch_model.bin": saved(table, folder)}
    where = {name: SHARDS[number % 2] for number, name in enumerate(sorted(table))}
    for shard in SHARDS:
        files[shard] = saved({name: table[name] for name in table if where[name] == shard}, folder)
    files["pytorch_model.bin.index.json"] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return files


@pytest.mark.parametrize("shards", [1, 2])
def test_a_language_model_of_pickles_is_the_same_as_one_of_safetensors(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
    shards: int,
) -> None:
    commit = hub.add("someone/tiny", pickled(llm, tmp_path, shards))
    expected, _ = load_llm(str(llm))
    found, tokenizer = load_llm("someone/tiny")
    for (name, weight), (_, other) in zip(
        sorted(found.named_parameters()), sorted(expected.named_parameters()), strict=True
    ):
        assert torch.equal(weight, other), name
    assert tokenizer("red blue")["input_ids"] == tiny.tokenizer()("red blue")["input_ids"]
    kept = converted_folder("someone/tiny", commit)
    assert kept.parent.parent == hub.home / "acsearch"
    assert {path.suffix for path in kept.iterdir()} <= {".safetensors", ".json"}


def test_it_is_converted_once_and_the_pickles_are_not_needed_any_more(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
) -> None:
    hub.add("someone/tiny", pickled(llm, tmp_path, 2))
    load_llm("someone/tiny")
    with opened(hub.home) as files:
        load_llm("someone/tiny")
    assert sum(name.endswith(".safetensors") for name in files) == 2
    assert not any(name.endswith(".bin") for name in files)
    for shard in SHARDS:
        hub.remove("someone/tiny", shard)
    load_llm("someone/tiny")


def test_safetensors_are_taken_where_there_are_some(hub: CachedHub, llm: Path, tmp_path: Path) -> None:
    files = pickled(llm, tmp_path) | {"model.safetensors": (llm / "model.safetensors").read_bytes()}
    commit = hub.add("someone/tiny", files | {"pytorch_model.bin": b"never read"})
    load_llm("someone/tiny")
    assert not converted_folder("someone/tiny", commit).exists()
    assert pin_llm("someone/tiny") == identify_llm("someone/tiny") == f"someone/tiny@{commit}"


def test_what_stands_for_pickles_is_the_digest_of_what_is_loaded(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
) -> None:
    commit = hub.add("someone/tiny", pickled(llm, tmp_path))
    identity = identify_llm("someone/tiny")
    assert pin_llm("someone/tiny") == f"someone/tiny@{commit}"
    kept = converted_folder("someone/tiny", commit)
    table = load_file(kept / "model.safetensors")
    (kept / "model.safetensors").unlink()
    next(iter(table.values())).view(-1)[0] += 1
    save_file(table, kept / "model.safetensors", metadata={"format": "pt"})
    assert identify_llm("someone/tiny") != identity
    shutil.rmtree(kept)
    assert identify_llm("someone/tiny") == identity  # the same bytes again


def test_two_revisions_are_told_apart_and_each_can_be_asked_for(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
) -> None:
    files = pickled(llm, tmp_path) | {"model.safetensors": (llm / "model.safetensors").read_bytes()}
    first = hub.add("someone/tiny", files)
    pinned = pin_llm("someone/tiny")
    table = load_file(llm / "model.safetensors")
    table["lm_head.weight"] += 1
    save_file(table, tmp_path / "changed", metadata={"format": "pt"})
    second = hub.add("someone/tiny", files | {"model.safetensors": (tmp_path / "changed").read_bytes()})
    assert identify_llm("someone/tiny") == f"someone/tiny@{second}"
    assert identify_llm(pinned) == pin_llm(pinned) == pinned == f"someone/tiny@{first}"
    heads = [load_llm(name)[0].lm_head.weight for name in (pinned, "someone/tiny")]
    assert torch.allclose(heads[0] + 1, heads[1])


def test_a_hostile_pickle_is_refused_in_one_line_and_nothing_is_kept(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
) -> None:
    class Escaped:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    table = load_file(llm / "model.safetensors")
    files = files_of(llm) | {"pytorch_model.bin": saved({**table, "evil": Escaped()}, tmp_path)}
    commit = hub.add("someone/evil", files)
    message = r"language model someone/evil: its weights cannot be used: pytorch_model.bin holds .*, \w+\.system, and"
    with pytest.raises(TrainingError, match=message) as error:
        load_llm("someone/evil")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    kept = converted_folder("someone/evil", commit)
    assert [path.suffix for path in kept.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["../outside.bin", "/tmp/outside.bin", "shard.safetensors", "shard.py", ""])
def test_an_index_names_pickles_of_its_folder_alone(
    hub: CachedHub,
    llm: Path,
    tmp_path: Path,
    name: str,
) -> None:
    files = pickled(llm, tmp_path, 2)
    files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": {"a": name}}).encode()
    hub.add("someone/evil", files)
    with pytest.raises(TrainingError, match=r"must have a weight_map to names of .bin files in its folder"):
        load_llm("someone/evil")


def test_half_a_conversion_is_never_used(hub: CachedHub, llm: Path, tmp_path: Path, monkeypatch: Any) -> None:
    commit = hub.add("someone/tiny", pickled(llm, tmp_path, 2))
    kept = converted_folder("someone/tiny", commit)

    def dies(path: Path, table: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt if path.name.startswith("pytorch_model-00002") else OSError(28, "No space left")

    monkeypatch.setattr(hub_module, "write_safetensors", dies)
    with pytest.raises(TrainingError, match=r"cannot be kept as safetensors in .*: No space left; set HF_HOME"):
        load_llm("someone/tiny")
    assert not kept.exists()
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.home / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    left = kept.parent / f".{kept.name}.{os.uname().nodename}.1"
    left.mkdir()
    (left / "model.safetensors.index.json").write_text("{")  # of a process that was killed
    load_llm("someone/tiny")
    assert not left.exists()
    assert kept.is_dir()


def test_processes_that_come_at_once_convert_it_once(hub: CachedHub, llm: Path, tmp_path: Path) -> None:
    commit = hub.add("someone/tiny", pickled(llm, tmp_path, 2))
    script = "from trainers.pretrained.hub import fetch; import logging; logging.basicConfig(); print(fetch"
    script += f"('someone/tiny', None, ('config.json',), {WEIGHTS}).identity('someone/tiny'))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | hub.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    assert len({out for out, _ in said}) == 1
    assert sum("keeping them as safetensors" in error for _, error in said) == 1
    assert sorted(path.name for path in converted_folder("someone/tiny", commit).parent.iterdir()) == sorted(
        [commit, f"{commit}.lock"]
    )


def test_a_repository_without_weights_says_what_was_expected(hub: CachedHub, llm: Path) -> None:
    hub.add("someone/empty", files_of(llm))
    with pytest.raises(FileNotFoundError, match=r"expected model.safetensors or model.safetensors.index.json"):
        fetch("someone/empty", None, ("config.json",), WEIGHTS)
    with pytest.raises(WeightsError, match="cannot be had"):
        fetch("someone/nothing", None, ("config.json",), WEIGHTS)


@pytest.mark.parametrize(("kind", "file"), [("clip", "model"), ("timm", "model"), ("open_clip", "open_clip_model")])
def test_encoders_of_pickles(
    hub: CachedHub,
    tmp_path: Path,
    kind: str,
    file: str,
) -> None:
    checkpoints = write_checkpoints(tmp_path / "checkpoints")
    name = "open_clip_pytorch_model.bin" if kind == "open_clip" else "pytorch_model.bin"
    content = saved(load_file(checkpoints / kind / f"{file}.safetensors"), tmp_path)
    hub.add("someone/tower", files_of(checkpoints / kind) | {name: content})
    given = specs(checkpoints)[kind]
    encoder = make(replace(given, weights="someone/tower"))
    assert torch.equal(encoder.encode(PIXELS, SEEDS), make(given).encode(PIXELS, SEEDS))
    hub.add("someone/nothing", files_of(checkpoints / kind))
    with pytest.raises(SpaceError, match=r"no weights for 'tiny' in 'someone/nothing' on the .* hub: expected"):
        make(replace(given, weights="someone/nothing"))
