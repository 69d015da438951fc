"""Weights of others: what is hashed is what is loaded, and a configuration gets a tower of real size and no more."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.opened_files import opened
from support.tiny_encoders import PIXELS, SEEDS, make, specs
from trainers.errors import SpaceError

CONFIGS = {"clip": "config.json", "timm": "config.json", "open_clip": "open_clip_config.json"}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def given(checkpoints: Path, folder: Path, kind: str = "clip") -> Any:
    """The spec of a copy of a checkpoint."""
    shutil.copytree(checkpoints / kind, folder)
    return replace(specs(checkpoints)[kind], weights=str(folder))


def shard(folder: Path) -> dict[str, str]:
    """Split the weights over two files, with an index. Returns its map."""
    table = load_file(folder / "model.safetensors")
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    where = {name: parts[number % 2] for number, name in enumerate(sorted(table))}
    for part in parts:
        save_file(
            {name: table[name] for name in table if where[name] == part}, folder / part, metadata={"format": "pt"}
        )
    (folder / "model.safetensors").unlink()
    write_index(folder, where)
    return where


def write_index(folder: Path, where: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def change(folder: Path, kind: str, changes: dict[str, Any], *within: str) -> None:
    path = folder / CONFIGS[kind]
    config = json.loads(path.read_text())
    place = config
    for key in within:
        place = place[key]
    place.update(changes)
    path.write_text(json.dumps(config))


class Escaped:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "sharded", "timm", "open_clip"])
def test_every_file_that_is_opened_is_part_of_the_fingerprint(tmp_path: Path, checkpoints: Path, kind: str) -> None:
    folder = tmp_path / "weights"
    spec = given(checkpoints, folder, "clip" if kind == "sharded" else kind)
    if kind == "sharded":
        shard(folder)
    for name in ("pytorch_model.bin", "evil.py", "model-00003-of-00003.safetensors", "generation_config.json"):
        (folder / name).write_bytes(b"never read")
    with opened(tmp_path) as files:
        encoder = make(spec)
    assert len(files) == (4 if kind == "sharded" else 2)
    for name in files:
        path = tmp_path / name
        whole = path.read_bytes()
        if path.suffix == ".json":
            path.write_bytes(whole + b" ")
        else:
            table = load_file(path)
            path.unlink()
            save_file({one: value + 1e-3 for one, value in table.items()}, path, metadata={"format": "pt"})
        assert make(spec).fingerprint != encoder.fingerprint, name
        path.write_bytes(whole)
    assert make(spec).fingerprint == encoder.fingerprint


def test_sharded_weights_are_those_of_one_file(checkpoints: Path, folder: Path) -> None:
    spec = given(checkpoints, folder)
    expected = make(spec).encode(PIXELS, SEEDS)
    shard(folder)
    assert torch.equal(make(spec).encode(PIXELS, SEEDS), expected)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_beside_weights_is_refused(checkpoints: Path, folder: Path, kind: str, name: str) -> None:
    spec = given(checkpoints, folder, kind)
    (folder / name).write_text("{}")
    with pytest.raises(SpaceError, match=rf"the weights of 'tiny', '{folder}', come with an adapter, {name}, .*merge"):
        make(spec)


@pytest.mark.parametrize(
    "name",
    [
        "shard.bin",
        "pytorch_model-00001-of-00002.bin",
        "../outside.safetensors",
        "/tmp/outside.safetensors",
        "deep/inside.safetensors",
        "./other.safetensors",
        ".hidden.safetensors",
        "a\0b.safetensors",
        "a\nb.safetensors",
        "..",
        "",
        None,
        3,
        ["model.safetensors"],
    ],
)
def test_an_index_names_safetensors_of_its_folder_alone(checkpoints: Path, folder: Path, name: Any) -> None:
    spec = given(checkpoints, folder)
    where = shard(folder)
    first = min(where)
    table = {first: load_file(folder / where[first])[first]}
    if isinstance(name, str) and name.isprintable() and not name.startswith("/") and name not in ("", ".."):
        (folder / name).parent.mkdir(exist_ok=True)
        if name.endswith(".bin"):
            torch.save(table, folder / name)
        else:
            save_file(table, folder / name, metadata={"format": "pt"})
    write_index(folder, where | {first: name})
    with pytest.raises(SpaceError, match=rf"'{folder}', cannot be used: {INDEX} must have a weight_map to names of"):
        make(spec)


def test_a_pickle_in_an_index_never_runs(checkpoints: Path, folder: Path, tmp_path: Path) -> None:
    spec = given(checkpoints, folder)
    where = shard(folder)
    for name in ("shard.bin", "shard.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Escaped(tmp_path / "escaped")))
        write_index(folder, where | {min(where): name})
        with pytest.raises(SpaceError, match="'tiny'"):
            make(spec)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": []}',
        b"[" * 100_000,
        b'{"weight_map": ' + b'{"a":' * 10_000,
        b'{"weight_map": {"\xff": "model.safetensors"}}',
        b'{"weight_map": {"a": "model-00003-of-00002.safetensors"}}',
        b'{"weight_map": {"a": "model.safetensors"}}' + b" " * 2**25,
    ],
)
def test_an_index_of_another_shape_is_one_line(checkpoints: Path, folder: Path, content: bytes) -> None:
    spec = given(checkpoints, folder)
    shard(folder)
    (folder / INDEX).write_bytes(content)
    with pytest.raises(
        SpaceError, match=rf"the weights of 'tiny', '{folder}', (cannot be used|are not whole): .*{INDEX}"
    ):
        make(spec)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_may_lead_within_the_folder_and_into_the_hubs_cache(
    checkpoints: Path, tmp_path: Path, folder: Path, name: str
) -> None:
    spec = given(checkpoints, folder)
    encoder = make(spec)
    cached = tmp_path / "hub" / "models--someone--tiny" / "blobs" / "0123"
    cached.parent.mkdir(parents=True)
    for place in (folder / "there", cached, tmp_path / "outside"):
        (folder / name).resolve().rename(place)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(place)
        if place.name != "outside":
            assert make(spec).fingerprint == encoder.fingerprint
    with pytest.raises(SpaceError, match=rf"cannot be used: {name} is a link out of the folder, to {tmp_path}/outside"):
        make(spec)
    (tmp_path / "outside").unlink()
    with pytest.raises(SpaceError, match="'tiny'"):
        make(spec)
    os.mkfifo(tmp_path / "outside")
    with pytest.raises(SpaceError, match="'tiny'"):
        make(spec)


def test_of_a_hub_the_shards_come_that_the_index_names(
    checkpoints: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is not there in tests: its cache is played by a folder, with what else was once fetched into it."""
    spec = given(checkpoints, folder)
    expected = make(spec).encode(PIXELS, SEEDS)
    where = shard(folder)
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "0f1e2d"
    shutil.copytree(folder, snapshot.parent.parent / "blobs")
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    asked = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((revision, {*allow_patterns}))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    spec = replace(spec, weights="someone/tiny", revision="v1")
    with opened(snapshot.parent.parent) as files:
        assert torch.equal(make(spec).encode(PIXELS, SEEDS), expected)
    assert files == {f"blobs/{name}" for name in ("config.json", INDEX, *where.values())}
    first = {"config.json", "model.safetensors", INDEX, "adapter_config.json"}
    assert asked == [("v1", first), ("0f1e2d", {*where.values()})]
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(SpaceError, match="the weights of 'tiny', 'someone/tiny' .*, come with an adapter"):
        make(spec)


# -- configurations ----------------------------------------------------------------------------------------------------

ASKED = {
    "auto_map": {"AutoConfig": "evil.Config"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "transformers_weights": "other.safetensors",
    "configuration_files": ["config.1.0.0.json"],
    "fusion_config": {"patch_embeddings": True},
    "_attn_implementation": "evil/kernel",
    "attn_implementation": "evil/kernel:run",
    "_attn_implementation_internal": "kernels-community/flash-attn2",
    "_experts_implementation": "evil/kernel",
}


@pytest.mark.parametrize("key", ASKED)
@pytest.mark.parametrize("within", [(), ("vision_config",)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_a_configuration_must_not_ask_for_is_refused_by_name(
    checkpoints: Path, folder: Path, key: str, within: tuple[str, ...], device: str
) -> None:
    spec = given(checkpoints, folder)
    change(folder, "clip", {key: ASKED[key]}, *within)
    with pytest.raises(
        SpaceError, match=rf"cannot use the configuration of 'tiny', '{folder}/config.json': '{key}' (is|has) "
    ):
        make(spec, device=device)


@pytest.mark.parametrize("value", [None, "eager", "sdpa"])
def test_attention_of_torch_is_taken(checkpoints: Path, folder: Path, value: str | None) -> None:
    spec = given(checkpoints, folder)
    expected = make(spec).encode(PIXELS, SEEDS)
    change(folder, "clip", {"_attn_implementation": value, "quantization_config": None, "auto_map": {}})
    torch.testing.assert_close(make(spec).encode(PIXELS, SEEDS), expected, rtol=1e-4, atol=1e-5)


ABSURD = [
    *(("clip", ("vision_config",), changes) for changes in (
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**400},
        {"num_hidden_layers": -1},
        {"hidden_size": 10**9},
        {"hidden_size": 2**20},
        {"hidden_size": 0},
        {"intermediate_size": 10**9},
        {"intermediate_size": 2**24},
        {"num_hidden_layers": 256, "hidden_size": 2**15, "num_attention_heads": 8},
        {"patch_size": 0},
        {"patch_size": -8},
        {"patch_size": 10**9},
        {"image_size": 10**9},
        {"image_size": 2**23},
        {"image_size": 0},
        {"num_channels": 10**9},
        {"num_channels": 2**24},
        {"num_attention_heads": 10**9},
        {"num_labels": 10**9},
        {"a": [[[{"b": 10**9}]]]},
    )),
    *(("timm", ("model_args",), changes) for changes in (
        {"depth": 10**6},
        {"depth": 256, "embed_dim": 2**15},
        {"embed_dim": 10**9},
        {"embed_dim": 2**20},
        {"mlp_ratio": 1e9},
        {"patch_size": 0},
        {"in_chans": 10**9},
        {"num_classes": 10**9},
        {"reg_tokens": 2**24},
    )),
    *(("open_clip", ("model_cfg", "vision_cfg"), changes) for changes in (
        {"layers": 10**6},
        {"width": 10**9},
        {"width": 2**20},
        {"mlp_ratio": 1e9},
        {"patch_size": 0},
    )),
    ("open_clip", ("model_cfg",), {"embed_dim": 10**9}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "within", "changes"), ABSURD)
def test_an_absurd_configuration_is_one_line(
    checkpoints: Path, folder: Path, kind: str, within: tuple[str, ...], changes: dict[str, Any]
) -> None:
    """Some of them would take minutes, others all of the memory."""
    spec = given(checkpoints, folder, kind)
    change(folder, kind, changes, *within)
    with pytest.raises(SpaceError, match="'tiny'") as error:
        make(spec)
    assert len(error.value.line.splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["checkpoint_path", "pretrained_cfg", "cache_dir", "pretrained_strict", "features_only"]
)
def test_arguments_of_timm_are_those_of_a_tower(checkpoints: Path, folder: Path, tmp_path: Path, key: str) -> None:
    spec = given(checkpoints, folder, "timm")
    torch.save({"state_dict": Escaped(tmp_path / "escaped")}, tmp_path / "evil.pth")
    change(folder, "timm", {key: str(tmp_path / "evil.pth")}, "model_args")
    with pytest.raises(SpaceError, match=f"'{key}' among the arguments of 'tiny'"):
        make(spec)
    with pytest.raises(SpaceError, match=f"'{key}' among the arguments of 'tiny'"):
        make(spec, device="meta")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    "content", [b"{" + b'"a":{' * 100_000, b"[" * 10_000, b'"x"', b"\xff\xfe", b"{} " + b" " * 2**23]
)
def test_a_configuration_of_another_shape_is_one_line(checkpoints: Path, folder: Path, content: bytes) -> None:
    spec = given(checkpoints, folder)
    (folder / "config.json").write_bytes(content)
    for device in ("cpu", "meta"):
        with pytest.raises(SpaceError, match=rf"cannot use the configuration of 'tiny', '{folder}/config.json'"):
            make(spec, device=device)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_that_are_not_finite_are_refused(checkpoints: Path, folder: Path, kind: str, value: float) -> None:
    spec = given(checkpoints, folder, kind)
    (path,) = folder.glob("*.safetensors")
    table = load_file(path)
    name = next(name for name in sorted(table) if "0" in name and table[name].ndim == 2 and "text" not in name)
    table[name][-1, -1] = value
    path.unlink()
    save_file(table, path, metadata={"format": "pt"})
    with pytest.raises(
        SpaceError, match=rf"the weights of 'tiny', '{folder}', are broken: .* values that are not finite"
    ):
        make(spec)
    assert make(spec, device="meta").grid == (4, 4)
