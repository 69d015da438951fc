"""Encoders: the registry, the adapters on tiny random checkpoints in the three libraries' formats."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from trainers.encoders import ADAPTERS, Encoder, EncoderSpec, Registry, load_registry, make_encoder
from trainers.encoders.denoiser import add_noise
from trainers.encoders.images import content_seed
from trainers.encoders.import_block import without
from trainers.encoders.joined import build_representation
from trainers.encoders.transformers_ import TOWERS
from trainers.errors import ConfigError, DataError, SpaceError
from trainers.representation import Part, parse

BUILT_IN = load_registry()
HALF = (0.5, 0.5, 0.5)
PIXELS = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SEEDS = torch.tensor([11, 12])
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}


def spec(adapter: str, weights: Path | None, **changes) -> EncoderSpec:
    prefix = changes.pop("prefix_tokens", 1)
    return EncoderSpec(
        "tiny", adapter, changes.pop("model", None), None if weights is None else str(weights), None, "MIT",
        32, 8, 32, prefix, HALF, HALF, **changes,
    )  # fmt: skip


def make(given: EncoderSpec, size: int = 32, layer: int | None = None, **where) -> Encoder:
    return make_encoder(Part("tiny", size, layer), Registry({"tiny": given}), **where)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """The same features up to the order of sums."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- checkpoints -----------------------------------------------------------------------------------------------------

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
SHAPE |= {"patch_size": 8, "image_size": 32}
# By model type: how many prefix tokens, and further values of the configuration
FAMILIES = {
    "clip_vision_model": (1, {"hidden_act": "quick_gelu", "intermediate_size": 128}),
    "siglip_vision_model": (0, {}),
    "siglip2_vision_model": (0, {"num_patches": 16}),
    "dinov2": (1, {}),
    "dinov2_with_registers": (5, {}),
    "dinov3_vit": (5, {"num_register_tokens": 4}),
    "vit": (1, {}),
    "vit_mae": (1, {}),
    "ijepa": (0, {}),
    "aimv2_vision_model": (0, {}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """One folder for each family of transformers; "clip" a whole CLIP; "timm" and "open_clip" the same tower again."""
    root = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, (_, values) in FAMILIES.items():
            config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **values})
            shuffle_weights(getattr(transformers, TOWERS[kind].model)(config)).save_pretrained(root / kind)
        vision = json.loads((root / "clip_vision_model" / "config.json").read_text())
        text = {**SHAPE, "vocab_size": 8, "max_position_embeddings": 4, "eos_token_id": 7}
        clip = shuffle_weights(
            transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        )
        clip.save_pretrained(root / "clip")
        write_open_clip(clip, root / "open_clip")
        write_timm(root / "open_clip" / "open_clip_model.safetensors", root / "timm")
    return root


def shuffle_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that every one of them matters (norms and tables start at 1 and 0)."""
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def write_open_clip(clip: transformers.CLIPModel, folder: Path) -> None:
    table = {f"visual.{k}": v for k, v in as_openai(clip.vision_model.state_dict(), depth=4).items()}
    table["visual.proj"] = clip.visual_projection.weight.T
    vision = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 4, "vocab_size": 8, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in table.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def as_openai(weights: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """transformers' names of a CLIP vision tower as OpenAI's, which open_clip and timm read."""
    renamed = {
        "class_embedding": weights["embeddings.class_embedding"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "conv1.weight": weights["embeddings.patch_embedding.weight"],
    }
    for end in ("weight", "bias"):
        renamed[f"ln_pre.{end}"] = weights[f"pre_layrnorm.{end}"]
        renamed[f"ln_post.{end}"] = weights[f"post_layernorm.{end}"]
        for i in range(depth):
            ours, theirs = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
            joined = [weights[f"{theirs}self_attn.{x}_proj.{end}"] for x in "qkv"]
            renamed[f"{ours}attn.in_proj_{end}"] = torch.cat(joined)
            names = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            for a, b in (names | {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}).items():
                renamed[f"{ours}{a}.{end}"] = weights[f"{theirs}{b}.{end}"]
    return renamed


def write_timm(weights: Path, folder: Path) -> None:
    arguments = {**VIT, "num_classes": 16, "img_size": 32}
    config = {"architecture": "vit_large_patch14_clip_quickgelu_224", "model_args": arguments}
    config["pretrained_cfg"] = {"tag": "tiny", "input_size": [3, 32, 32]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights.read_bytes())


def specs(checkpoints: Path) -> dict[str, EncoderSpec]:
    """One of everything that has weights."""
    found = {kind: spec("transformers", checkpoints / kind, prefix_tokens=FAMILIES[kind][0]) for kind in FAMILIES}
    found["clip"] = spec("transformers", checkpoints / "clip")
    found["timm"] = spec("timm", checkpoints / "timm")
    found["open_clip"] = spec("open_clip", checkpoints / "open_clip")
    found["denoiser"] = spec("denoiser", checkpoints / "timm", options={"noise_level": 0.3})
    return found


EVERY = [*FAMILIES, "clip", "timm", "open_clip", "denoiser"]


# --- the registry ----------------------------------------------------------------------------------------------------


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


# --- the adapters ----------------------------------------------------------------------------------------------------


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


# --- what is refused -------------------------------------------------------------------------------------------------


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
def test_a_repositorys_code_never_runs(tmp_path, checkpoints, kind):
    config = json.loads((checkpoints / "clip_vision_model" / "config.json").read_text())
    config |= {"model_type": kind, "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    source = checkpoints / "clip_vision_model" / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(source.read_bytes())
    given = spec("transformers", tmp_path)
    if kind in TOWERS:
        expected = make(specs(checkpoints)[kind]).encode(PIXELS, SEEDS)
        assert torch.equal(make(given).encode(PIXELS, SEEDS), expected)  # by transformers' own class
    else:
        with pytest.raises(SpaceError, match="never runs a repository's own code"):
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

    def snapshot(repo, *, revision, allow_patterns):
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
    message = (
        "cannot get the weights of 'tiny', 'someone/tiny' .* at revision 'v1': no connection; .*path of a local folder"
    )
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


# --- noise -----------------------------------------------------------------------------------------------------------


def test_random_features_belong_to_the_image():
    encoder = make(spec("noise", None))
    features = encoder.encode(PIXELS, SEEDS)
    assert features.shape == (2, 4, 4, 32)
    assert abs(features.mean().item()) < 0.1
    assert features.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(encoder.encode(PIXELS.flip(0), SEEDS.flip(0)), features.flip(0))
    assert torch.equal(encoder.encode(PIXELS[:1], SEEDS[:1]), features[:1])
    other = make(spec("noise", None, options={"seed": 1}))
    assert not torch.equal(other.encode(PIXELS, SEEDS), features)
    assert other.fingerprint != encoder.fingerprint


def test_a_denoiser_sees_a_noisy_image(checkpoints):
    given = specs(checkpoints)["denoiser"]
    noisy = make(given)
    quiet, plain = make(replace(given, options={"noise_level": 0})), make(specs(checkpoints)["timm"])
    assert torch.equal(quiet.encode(PIXELS, SEEDS), plain.encode(PIXELS, SEEDS))
    assert not torch.allclose(noisy.encode(PIXELS, SEEDS), plain.encode(PIXELS, SEEDS), atol=0.1)
    assert not torch.allclose(noisy.encode(PIXELS, SEEDS), noisy.encode(PIXELS, SEEDS + 5), atol=0.1)
    assert len({noisy.fingerprint, quiet.fingerprint, plain.fingerprint}) == 3
    with pytest.raises(SpaceError, match=r"noise_level None in its options; it must be in \[0, 1\)"):
        make(replace(given, options={}))
    normal = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    assert add_noise(normal[0], normal[1], 0.6).std().item() == pytest.approx(1, abs=0.01)


# --- together --------------------------------------------------------------------------------------------------------


def test_a_representation_end_to_end(checkpoints):
    rows = {name: replace(given, name=name.replace("_", "-")) for name, given in specs(checkpoints).items()}
    rows["noise"] = spec("noise", None)
    registry = Registry({name.replace("_", "-"): row for name, row in rows.items()})
    vision = build_representation(parse("clip@32+dinov2@48+noise@32"), registry)
    assert (vision.grid, vision.width) == ((4, 4), 96)
    image = Image.new("RGB", (40, 30), (200, 30, 90))
    views = vision.views(image)
    assert [tuple(view.shape) for view in views] == [(3, 32, 32), (3, 48, 48), (3, 32, 32)]
    seeds = torch.tensor([content_seed(image)])
    joined = vision.encode([view[None] for view in views], seeds)
    assert joined.shape == (1, 4, 4, 96)
    assert torch.equal(joined[..., :32], vision.parts[0].encode(views[0][None], seeds))
    others = ["clip@32+dinov2@48+noise@32|normconcat", "dinov2@48+clip@32+noise@32", "clip@32+dinov2@32+noise@32"]
    fingerprints = {build_representation(parse(name), registry).fingerprint for name in others}
    assert len(fingerprints | {vision.fingerprint}) == 4
    assert build_representation(parse("clip@32+dinov2@48+noise@32|linear"), registry).fingerprint == vision.fingerprint


def test_every_adapter_is_tested(checkpoints):
    assert {given.adapter for given in specs(checkpoints).values()} | {"noise"} == set(ADAPTERS)
    assert set(FAMILIES) == set(TOWERS)


def test_what_only_happens_to_be_installed_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with without("wave"), pytest.raises(ImportError):
        importlib.import_module("wave")
    assert importlib.import_module("wave").open
    with without("wave"):  # somebody has it already
        assert importlib.import_module("wave").open
    assert "wave" in sys.modules
