"""Weights: where they may come from, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny_encoders import PIXELS, SEEDS, make, spec, specs
from trainers.encoders.transformers_ import TOWERS
from trainers.errors import DataError, SpaceError


@pytest.mark.parametrize(("kind", "file"), [("clip", "model"), ("timm", "model"), ("open_clip", "open_clip_model")])
def test_pickles_are_refused(tmp_path, checkpoints, kind, file):
    for path in (checkpoints / kind).iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(SpaceError, match=r"not safetensors but pytorch_model.bin, .* a pickle can run code"):
        make(replace(specs(checkpoints)[kind], weights=str(tmp_path)))
    with pytest.raises(SpaceError, match=r"not safetensors but pytorch_model.bin"):
        make(replace(specs(checkpoints)[kind], weights=str(tmp_path / "pytorch_model.bin")))
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(SpaceError, match=rf"no weights for 'tiny' in .*: expected {file}.safetensors"):
        make(replace(specs(checkpoints)[kind], weights=str(tmp_path)))
    if kind != "timm":
        source = checkpoints / kind / f"{file}.safetensors"
        with pytest.raises(SpaceError, match=r"its adapter needs the folder, with (open_clip_)?config.json"):
            make(replace(specs(checkpoints)[kind], weights=str(source)))
    with pytest.raises(SpaceError, match=r"no file or folder '.*gone'; put them there, or point 'weights' of 'tiny'"):
        make(replace(specs(checkpoints)[kind], weights=str(tmp_path / "gone")))


@pytest.mark.parametrize("kind", ["clip_vision_model", "not_in_transformers"])
@pytest.mark.parametrize("named", [True, False])
def test_a_repositorys_code_never_runs(tmp_path, checkpoints, kind, named):
    config = json.loads((checkpoints / "clip_vision_model" / "config.json").read_text())
    config |= {"model_type": kind}
    if named:
        config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    source = checkpoints / "clip_vision_model" / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(source.read_bytes())
    given = spec("transformers", tmp_path)
    if kind in TOWERS and not named:
        expected = make(specs(checkpoints)[kind]).encode(PIXELS, SEEDS)
        assert torch.equal(make(given).encode(PIXELS, SEEDS), expected)
    else:
        message = "config.json': 'auto_map' is for code" if named else "never runs a repository's own code"
        with pytest.raises(SpaceError, match=message):
            make(given)
    assert not (tmp_path / "ran").exists()


def test_names_that_build_the_wrong_gelu_are_refused(tmp_path, checkpoints):
    given = spec("timm", checkpoints / "timm", model="vit_large_patch14_clip_224.openai")
    with pytest.raises(SpaceError, match=r"QuickGELU.*set 'model' to 'vit_large_patch14_clip_quickgelu_224.openai'"):
        make(given, device="meta")
    config = json.loads((checkpoints / "timm" / "config.json").read_text())
    config |= {"architecture": "vit_large_patch14_clip_224", "pretrained_cfg": {"tag": "openai"}}
    (tmp_path / "config.json").write_text(json.dumps(config))  # as the hub's own folders say
    (tmp_path / "model.safetensors").write_bytes((checkpoints / "timm" / "model.safetensors").read_bytes())
    with pytest.raises(SpaceError, match="QuickGELU"):
        make(spec("timm", tmp_path))


@pytest.mark.parametrize("kind", ["clip", "timm", "open_clip", "dinov2_with_registers"])
def test_false_declarations_are_found(checkpoints, kind):
    given = specs(checkpoints)[kind]
    with pytest.raises(SpaceError, match=r"declares \d prefix tokens, its tower has"):
        make(replace(given, prefix_tokens=3)).encode(PIXELS, SEEDS)
    with pytest.raises(SpaceError, match="declares a width of 48, its tower has 32"):
        make(replace(given, width=48))
    with pytest.raises(SpaceError, match="tiny has no layer -5; it has 4"):
        make(given, layer=-5)
    with pytest.raises(SpaceError, match="tiny has no layer 0; it has 4"):
        make(given, layer=0)
    with pytest.raises(DataError, match=r"takes \(batch, 3, 32, 32\) uint8 pixels, got \(2, 3, 32, 32\) float32"):
        make(given).encode(PIXELS.float(), SEEDS)


def test_weights_that_do_not_fit_are_refused(tmp_path, checkpoints):
    for kind, file in (("clip", "model"), ("timm", "model"), ("open_clip", "open_clip_model")):
        folder = tmp_path / kind
        folder.mkdir()
        for path in (checkpoints / kind).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = folder / f"{file}.safetensors"
        kept = {name: value for name, value in load_file(weights).items() if "mlp.c_fc" not in name}
        kept = {name: value for name, value in kept.items() if "vision_model.encoder.layers.1.mlp.fc1" not in name}
        weights.unlink()
        save_file(kept, weights)
        with pytest.raises(SpaceError, match=r"lack \d+ tensors|timm cannot build|do not fit"):
            make(replace(specs(checkpoints)[kind], weights=str(folder)))
        weights.write_bytes((checkpoints / kind / weights.name).read_bytes()[:-100])
        with pytest.raises(SpaceError, match=r"the weights of 'tiny', .* are damaged"):
            make(replace(specs(checkpoints)[kind], weights=str(folder)))
        (folder / ("open_clip_config.json" if kind == "open_clip" else "config.json")).write_text("{")
        with pytest.raises(SpaceError, match="configuration of 'tiny'"):
            make(replace(specs(checkpoints)[kind], weights=str(folder)))


def test_hub_weights_are_safetensors_pinned_by_commit(tmp_path, checkpoints, monkeypatch):
    """The hub is not there in tests: its snapshot is played by a folder, its absence by its own error."""
    import huggingface_hub

    asked = {}

    def snapshot(repo, *, revision, allow_patterns, local_files_only):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path / "snapshots" / "0f1e2d")

    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "0f1e2d").symlink_to(checkpoints / "timm")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    given = replace(specs(checkpoints)["timm"], weights="someone/tiny", revision="v1")
    encoder = make(given)
    assert asked["repo"] == "someone/tiny"
    assert asked["revision"] == "v1"
    assert all(pattern.endswith((".safetensors", ".json")) for pattern in asked["patterns"])
    assert encoder.fingerprint == make(replace(given, notes="another remark", licence="other")).fingerprint
    assert encoder.fingerprint != make(specs(checkpoints)["timm"]).fingerprint

    def offline(repo, **asked):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = "the weights of .tiny., .someone/tiny. .* at revision .v1., cannot be had: no connection; .*local folder"
    with pytest.raises(SpaceError, match=message):
        make(given)


def test_the_fingerprint_follows_the_weights_and_not_the_place(tmp_path, checkpoints):
    for path in (checkpoints / "clip").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = specs(checkpoints)["clip"]
    moved = replace(given, weights=str(tmp_path))
    assert make(moved).fingerprint == make(given).fingerprint
    weights = load_file(tmp_path / "model.safetensors")
    weights["logit_scale"] += 1
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors")
    assert make(moved).fingerprint != make(given).fingerprint
