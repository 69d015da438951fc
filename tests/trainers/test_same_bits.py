"""What users have stays found and gives the same bits: names, digests, first weights, losses, features, answers.

The values were recorded before images could be shown in other ways than as one square.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acsearch.config.training import TrainingConfig
from support import tiny
from support.tiny_models import batcher
from support.tiny_samples import samples, say
from trainers.connectors import make_connector
from trainers.contracts import MapShape
from trainers.data.feature_cache import FeatureCache
from trainers.encoders import load_registry
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.job import Job, Parts, Stage, Tune
from trainers.model.loading import build_model
from trainers.model.multimodal import MultimodalModel
from trainers.representation import parse

NOISE = """
noisy: {adapter: noise, licence: none, native_size: 32, patch: 8, width: 6, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
"""
JOB = Job(
    parts=Parts(representation="clip@32+siglip@32|pool@2", llm="llm", template="chat"),
    stage=Stage(data="x", template="plain", train={"connector": Tune(mode="full", lr=1e-3)}, batch=4, micro_batch=2),
    data=Path("x.json"),
    identity="tiny",
)
STUDY = {
    "candidates": ["clip@32", "siglip@32|linear", "clip@32+siglip@32", "clip@32:-1+siglip@32|normconcat@3|shuffle@2"],
    "connector": "pool@2",
    "llm": "llm",
    "data": "data",
    "alignment": {"data": "captions.json"},
    "align": JOB.stage.model_dump(mode="json"),
    "finetune": JOB.stage.model_dump(mode="json"),
    "benchmarks": ["gqa"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, of bytes that no library's version changes, and a language model."""
    made = tmp_path_factory.mktemp("bits")
    (made / "encoders.yaml").write_text(NOISE)
    rows = []
    for number, colour in enumerate(("red", "blue")):
        tiny.picture(colour, number).save(made / f"{number}.bmp")
        rows.append(say("<image>\nwhat colour is it ?", colour, image=f"{number}.bmp", name=str(number)))
    (made / "rows.json").write_text(json.dumps([*rows, say("a big", "green", image=None)]))
    tiny.llm(made / "llm")
    return made


def vision(folder: Path, name: str) -> VisionRepresentation:
    return build_representation(parse(name), load_registry(folder / "encoders.yaml"))


def model_of(folder: Path, **changes: Any) -> MultimodalModel:
    given = {"representation": "noisy@32+noisy@48|pool@2", "llm": str(folder / "llm"), "template": "chat"} | changes
    made = build_model(Parts(encoders=(folder / "encoders.yaml",), **given))
    generator = torch.Generator().manual_seed(0)
    for weight in made.llm.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return made


def sha(*tensors: torch.Tensor) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def test_digests_of_jobs() -> None:
    def changed(**parts: Any) -> str:
        return JOB.model_copy(update={"parts": JOB.parts.model_copy(update=parts)}).digest[:16]

    assert changed() == "8a7bde45211da39c"
    assert changed(resize="squash") == "c6a8209b0bfd966e"
    assert changed(representation="clip@32:-1+siglip@32|normconcat@3|shuffle@2") == "fb7236c7ed030894"


def test_names_and_the_digest_of_a_study() -> None:
    study = TrainingConfig.model_validate_json(json.dumps(STUDY))
    assert study.names == tuple(STUDY["candidates"])
    assert [str(one) for one in study.representations] == [
        "clip@32|pool@2",
        "siglip@32|linear",
        "clip@32+siglip@32|pool@2",
        "clip@32:-1+siglip@32|normconcat@3|shuffle@2",
    ]
    assert study.digest[:16] == "9b0492cec02b6957"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("linear", "8f6276e67299d9ac"),
        ("mlp2x", "1e8abc7ed356e917"),
        ("pool@2", "c879b300fef6d193"),
        ("shuffle@2", "82c51c466808f954"),
    ],
)
def test_first_weights_of_connectors(name: str, digest: str) -> None:
    made = make_connector(parse(f"a@1|{name}").connector, [MapShape((4, 4), 6)], 10, seed=3)
    assert sha(*made.state_dict().values()) == digest


def test_fingerprints_of_representations(folder: Path) -> None:
    assert vision(folder, "noisy@32").fingerprint[:16] == "f7180ec2a2ca47ad"
    assert vision(folder, "noisy@32+noisy@48:-1|normconcat@3|linear").fingerprint[:16] == "169af8c1ba299c20"


def test_files_of_features(folder: Path) -> None:
    shown = samples(folder / "rows.json", tiny.tokenizer())
    cache = FeatureCache(folder / "features", vision(folder, "noisy@32+noisy@48"), shown)
    assert [cache.path(part).name for part in range(2)] == [
        "37fd4faf91a653547f0530b5-544e1c231c7eff951ce53048-letterbox.npy",
        "5d5f9d314422e42debd0ce93-544e1c231c7eff951ce53048-letterbox.npy",
    ]


def test_the_fingerprint_of_a_model(folder: Path) -> None:
    model = model_of(folder)
    for weight in model.llm.parameters():
        weight.data.fill_(0.5)
    assert model.fingerprint[:16] == "ecb3f8564de1ac00"


def test_losses_and_gradients(folder: Path) -> None:
    model = model_of(folder)
    model.tune({"connector": Tune(mode="full", lr=0.1), "llm": Tune(mode="full", lr=0.1)}, seed=0)
    loss = model(batcher(model, samples(folder / "rows.json", tiny.tokenizer())).batch([0, 1, 2]))
    loss.backward()
    norms = [float(weight.grad.norm()) for weight in model.connector.parameters() if weight.grad is not None]
    expected = [34.23125457763672, 19.497949600219727, 8.707178115844727, 33.633384704589844, 27.792179107666016]
    assert [loss.item(), *norms] == pytest.approx(expected, rel=1e-6)


def test_answers(folder: Path) -> None:
    pictures: list[Image.Image | None] = [tiny.picture("red", 0), tiny.picture("green", 1, (20, 60)), None]
    answers = model_of(folder).generate(pictures, ["what is it ?", "a big", "what ?"], 8)
    assert answers == ["", "it it it it it . what", "big red red what red red . what"]
