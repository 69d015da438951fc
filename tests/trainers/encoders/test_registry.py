"""The registry of encoders: every row builds what it declares, and bad rows are named."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from torch.overrides import TorchFunctionMode

from support.tiny_encoders import FAMILIES, specs
from trainers.encoders import ADAPTERS, load_registry, make_encoder
from trainers.encoders.transformers_ import TOWERS
from trainers.errors import ConfigError, SpaceError
from trainers.representation import Part

BUILT_IN = load_registry()


class _NoInitialisation(TorchFunctionMode):
    """In-place operations do nothing: meta tensors have no values, and initialising them takes most of the time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        in_place = name.endswith("_") and not name.endswith("__") and name not in ("requires_grad_", "detach_")
        kwargs = kwargs or {}
        return (*args, *kwargs.values())[0] if in_place else function(*args, **kwargs)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_the_registry_declares_comes_out(name):
    """On the meta device. A plain transformer's first layer stands for the others, which have the same shape."""
    declared = BUILT_IN[name]
    for size in [checkpoint.size for checkpoint in declared.checkpoints] or [declared.native_size]:
        with _NoInitialisation():
            encoder = make_encoder(Part(name, size, 1 if declared.layer == -2 else -1), BUILT_IN, device="meta")
        batch = torch.zeros(2, 3, size, size, dtype=torch.uint8, device="meta")
        features = encoder.encode(batch, torch.zeros(2, dtype=torch.int64, device="meta"))
        side = size // declared.patch
        assert features.shape == (2, side, side, declared.width)
        assert encoder.spec.native_size == size
        if declared.adapter == "timm":
            mean, std = encoder.tower.pretrained_cfg["mean"], encoder.tower.pretrained_cfg["std"]
            assert (mean, std) == (pytest.approx(declared.mean), pytest.approx(declared.std))


def test_the_checkpoint_of_a_size():
    assert BUILT_IN["clip-l14"].at(336).weights == "timm/vit_large_patch14_clip_336.openai"
    assert BUILT_IN["clip-l14"].at(448).native_size == 336  # the nearest below,
    assert BUILT_IN["clip-l14"].at(280).native_size == 224
    assert BUILT_IN["clip-l14"].at(112).native_size == 224  # else the smallest
    with pytest.raises(SpaceError, match="clip-l14@13 is smaller than one patch"):
        BUILT_IN["clip-l14"].at(13)


ROW = {"adapter": "timm", "licence": "MIT", "native_size": 32, "patch": 8, "width": 32, "mean": [0, 0, 0]}
ROW |= {"std": [1, 1, 1], "weights": "tiny"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 3}, "unknown key 'widht'; did you mean 'width'?"),
        ({"width": None}, "'tiny' in .*encoders.yaml': width: Input should be a valid integer"),
        ({"adapter": "tim"}, "unknown adapter 'tim'; known: timm, transformers"),
        ({"native_size": None}, "needs either 'native_size' or 'checkpoints'"),
        ({"checkpoints": {32: {}}, "native_size": None}, "'model', 'weights' and 'revision' belong into them"),
        ({"std": [1, 0, 1]}, "every channel's must be above 0"),
        ({"mean": [0, 0]}, "mean: List should have at least 3 items"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    path = tmp_path / "encoders.yaml"
    path.write_text(yaml.safe_dump({"tiny": ROW | change}))
    with pytest.raises(ConfigError, match=message):
        load_registry(path)


def test_a_study_adds_and_replaces_encoders(tmp_path, checkpoints):
    path = tmp_path / "encoders.yaml"
    path.write_text(json.dumps({"tiny": ROW, "clip-l14": ROW | {"weights": "there/x.safetensors"}, "hub": ROW}))
    (tmp_path / "tiny").mkdir()
    registry = load_registry(path)
    assert registry["tiny"].weights == str(tmp_path / "tiny")  # beside the file
    assert registry["clip-l14"].weights == str(tmp_path / "there" / "x.safetensors")
    assert registry["dinov2-l14"] == BUILT_IN["dinov2-l14"]
    path.write_text(json.dumps({"tiny": ROW | {"weights": "someone/tiny"}}))
    assert load_registry(path)["tiny"].weights == "someone/tiny"  # a hub id
    with pytest.raises(SpaceError, match="no encoder 'clip-l15' in the registry; did you mean 'clip-l14'"):
        make_encoder(Part("clip-l15", 224), registry)


def test_every_adapter_is_tested(checkpoints):
    assert {given.adapter for given in specs(checkpoints).values()} | {"noise"} == set(ADAPTERS)
    assert set(FAMILIES) == set(TOWERS)
