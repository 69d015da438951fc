"""The adapters on tiny random checkpoints in the three libraries' formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from support.tiny_encoders import EVERY, FAMILIES, PIXELS, SEEDS, VIT, close, make, spec, specs
from trainers.encoders import Registry, describe_encoder
from trainers.encoders.transformers_ import TOWERS
from trainers.errors import SpaceError
from trainers.representation import Part


@pytest.mark.parametrize("kind", EVERY)
def test_the_default_layer_and_shape(checkpoints, kind):
    encoder = make(specs(checkpoints)[kind])
    features = encoder.encode(PIXELS, SEEDS)
    assert features.shape == (2, 4, 4, 32) == (2, *encoder.grid, encoder.width)
    assert not features.requires_grad
    assert encoder.train().training is False
    assert encoder.layer == -2
    assert sum(1 for _ in encoder.tower.parameters()) < parameter_count(checkpoints, kind)  # the last is not kept


def parameter_count(checkpoints: Path, kind: str) -> int:
    return sum(1 for _ in make(specs(checkpoints)[kind], layer=-1).tower.parameters())


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("kind", FAMILIES)
def test_layers_are_those_of_hidden_states(checkpoints, kind, layer):
    """Exactly, without prefix tokens, and without the final norm at the end."""
    encoder = make(specs(checkpoints)[kind], layer=layer)
    changes = {"mask_ratio": 0.0} if kind == "vit_mae" else {}
    whole = getattr(transformers, TOWERS[kind].model).from_pretrained(checkpoints / kind, **changes).eval()
    images = (PIXELS.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        states = whole(**TOWERS[kind].inputs(images, 8), output_hidden_states=True).hidden_states
    assert len(states) == 5
    expected = states[layer][:, FAMILIES[kind][0] :].view(2, 4, 4, 32)
    assert torch.equal(encoder.encode(PIXELS, SEEDS), expected)
    assert encoder.fingerprint == make(specs(checkpoints)[kind], layer=encoder.layer).fingerprint


@pytest.mark.parametrize("kind", [*EVERY, "noise"])
def test_an_encoder_is_described_without_its_weights(checkpoints, kind):
    """Its shape and its fingerprint, by which what was computed with it is found."""
    given = spec("noise", None) if kind == "noise" else specs(checkpoints)[kind]
    for layer in (None, 1, -2):
        part, encoder = Part("tiny", 32, layer), make(given, layer=layer)
        described = describe_encoder(part, Registry({"tiny": given}))
        assert described.fingerprint == encoder.fingerprint
        assert (described.grid, described.width, described.layer) == (encoder.grid, encoder.width, encoder.layer)
        assert all(weight.is_meta for weight in described.parameters())


@pytest.mark.parametrize("kind", EVERY)
def test_cells_are_where_the_pixels_are(checkpoints, kind):
    """One changed patch changes its own cell most: nothing is transposed, shuffled or shifted."""
    encoder = make(specs(checkpoints)[kind], layer=1)
    changed = PIXELS.clone()
    changed[:, :, 16:24, 8:16] = 255 - changed[:, :, 16:24, 8:16]  # the cell of row 2, column 1
    difference = (encoder.encode(changed, SEEDS) - encoder.encode(PIXELS, SEEDS)).norm(dim=-1)
    assert difference.flatten(1).argmax(1).tolist() == [9, 9]


def test_three_libraries_agree_on_clip(checkpoints):
    """The same weights, QuickGELU and all, through transformers, timm and open_clip."""
    for size in (32, 48):
        encoders = [make(specs(checkpoints)[kind], size) for kind in ("clip", "timm", "open_clip")]
        batch = torch.nn.functional.interpolate(PIXELS, size=size)
        ours, *others = (encoder.encode(batch, SEEDS) for encoder in encoders)
        for other in others:
            if size == 32:
                close(ours, other)
            # transformers resamples positions without antialiasing, which timm and open_clip do with it
            assert torch.cosine_similarity(ours, other, dim=-1).min() > (0.9999 if size == 32 else 0.99)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "aimv2_vision_model"])
def test_positions_are_resampled_from_the_checkpoints_table(checkpoints, kind):
    """Whichever sizes were made before: there is no way from one size to another but through the checkpoint."""
    given = specs(checkpoints)[kind]
    batch = torch.nn.functional.interpolate(PIXELS, size=40)
    fresh = make(given, 40).encode(batch, SEEDS)
    assert fresh.shape == (2, 5, 5, 32)
    before = make(given, 32).encode(PIXELS, SEEDS)
    for size in (24, 40):
        encoder = make(given, size)
        encoder.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8), SEEDS[:1])
    assert torch.equal(encoder.encode(batch, SEEDS), fresh)
    assert torch.equal(make(given, 32).encode(PIXELS, SEEDS), before)
    assert len({make(given, size).fingerprint for size in (24, 32, 40)}) == 3


def test_a_tower_of_one_size_says_so(checkpoints):
    with pytest.raises(SpaceError, match="tiny@40: transformers builds 'aimv2_vision_model' for 32 pixels alone"):
        make(specs(checkpoints)["aimv2_vision_model"], 40)


def test_timm_resamples_the_table_of_the_file(checkpoints):
    from timm.layers import resample_abs_pos_embed

    table = load_file(checkpoints / "timm" / "model.safetensors")["visual.positional_embedding"][None]
    expected = resample_abs_pos_embed(table, new_size=[6, 6], num_prefix_tokens=1)
    close(make(specs(checkpoints)["timm"], 48).tower.pos_embed, expected)


@pytest.mark.parametrize("kind", ["clip", "timm", "open_clip"])
def test_pixels_are_normalised_with_its_own_mean_and_std(checkpoints, kind):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    plain = make(replace(specs(checkpoints)[kind], mean=(0.0,) * 3, std=(1.0,) * 3))
    own = make(replace(specs(checkpoints)[kind], mean=mean, std=std))
    images = (PIXELS.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(own.encode(PIXELS, SEEDS), plain.features(images, SEEDS))
    assert own.fingerprint != plain.fingerprint


@pytest.mark.parametrize("kind", EVERY)
def test_making_an_encoder_leaves_the_global_generator_alone(checkpoints, kind):
    before = torch.get_rng_state()
    encoder = make(specs(checkpoints)[kind])
    first = encoder.encode(PIXELS, SEEDS)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # nor does a trainer's autocast reach in
        assert torch.equal(encoder.encode(PIXELS, SEEDS), first)
    close(encoder.encode(PIXELS.flip(0), SEEDS.flip(0)).flip(0), first)  # nor the place in the batch
    assert make(specs(checkpoints)[kind], dtype=torch.bfloat16).encode(PIXELS, SEEDS).dtype == torch.bfloat16


def test_weights_without_a_folder_and_in_half_precision(tmp_path, checkpoints):
    """A bare safetensors file, described by its row alone."""
    table = load_file(checkpoints / "timm" / "model.safetensors")
    save_file({name: value.half() for name, value in table.items()}, tmp_path / "tower.safetensors")
    model = "vit_large_patch14_clip_quickgelu_224"
    given = spec("timm", tmp_path / "tower.safetensors", model=model, options={**VIT, "num_classes": 16})
    features = make(given).encode(PIXELS, SEEDS)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, make(specs(checkpoints)["timm"]).encode(PIXELS, SEEDS), rtol=0.05, atol=0.05)


def test_hierarchical_layers_are_stages(tmp_path):
    import timm

    arguments = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        tower = timm.create_model("convnext_tiny", **arguments)
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    given = spec("timm", tmp_path / "tower.safetensors", model="convnext_tiny", options=arguments, prefix_tokens=0)
    given = replace(given, layer=-1, patch=32)
    assert make(given, 64).encode(torch.nn.functional.interpolate(PIXELS, size=64), SEEDS).shape == (2, 2, 2, 32)
    stage = make(given, 64, layer=-2)
    assert stage.encode(torch.nn.functional.interpolate(PIXELS, size=64), SEEDS).shape == (2, 4, 4, 24)
    assert (stage.grid, stage.width, stage.patch) == ((4, 4), 24, 16)
