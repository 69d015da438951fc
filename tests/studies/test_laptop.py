"""The study for one GPU: its plan needs nothing, its data are subsets of LLaVA's."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm

from acsearch.config.study_file import load_study
from acsearch.runners.plan import plan
from studies.laptop.subset import choose, main
from support import ROOT, tiny
from trainers.data.manifest import conversation, open_manifest
from trainers.encoders import load_registry
from trainers.errors import DataError


def test_its_plan_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*given: Any, **named: Any) -> None:
        raise OSError("the network is not there")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    planned = plan(load_study("laptop"), budget=4)
    assert planned.llm_weights == 361_821_120  # as published
    assert len(planned.candidates) == 13
    assert planned.memory_gb < 0.9 * planned.hardware.memory_gb
    assert 1 < planned.scoring + planned.finetuning < 24  # hours
    assert planned.disk_gb < 100
    tokens = {one.representation: one.tokens for one in planned.candidates}
    assert tokens["siglip2-b16@384"] == 576
    assert tokens["convnext-clip-b@256"] == 64


def test_the_smaller_language_model_is_known_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = (ROOT / "studies" / "laptop" / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("SmolLM2-360M", "SmolLM2-135M"))
    assert plan(load_study(str(tmp_path)), budget=4).llm_weights == 134_515_008


def test_its_encoders_are_where_timm_says() -> None:
    """The weights' hub ids are those of timm's own table."""
    training = load_study("laptop").file.training
    assert training is not None
    registry = load_registry()
    parts = {part for one in training.representations for part in one.parts}
    assert len({part.encoder for part in parts}) == 10
    for part in parts - {part for part in parts if part.encoder == "noise"}:
        spec = registry.find(part)
        known = timm.get_pretrained_cfg(spec.model)
        # OpenAI's CLIP: timm has the weights once, and two names for them
        assert spec.weights == known.hf_hub_id, part
        assert spec.model in timm.list_pretrained()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """LLaVA's files as they are downloaded: two lists of rows and two archives of images."""
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A shape."}]
    captions = [{"id": f"c{i}", "image": f"{i:05}/{i}.png", "conversations": said} for i in range(30)]
    rows: list[dict[str, Any]] = []
    for i in range(40):
        kind = ("coco/train2017", "gqa/images", "ocr_vqa/images", None)[i % 4]
        text = said if kind else [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
        rows.append({"id": f"i{i}", "conversations": text} | ({"image": f"{kind}/{i}.png"} if kind else {}))
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(30):
            archive.writestr(f"{i:05}/{i}.png", tiny.png(tiny.picture("red", i)))
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
        for i in range(0, 40, 4):
            archive.writestr(f"train2017/{i}.png", tiny.png(tiny.picture("blue", i)))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    files = {"captions": "captions.json", "caption-images": "images.zip", "instructions": "mix.json"}
    files |= {"coco": "train2017.zip", "out": "data"}
    return [one for name, file in files.items() for one in (f"--{name}", str(folder / file))] + list(more)


def test_a_subset_has_its_images_and_no_others(downloads: Path) -> None:
    main(arguments(downloads, "--rows", "12"))
    for name, images in (("LLaVA-Pretrain", 12), ("LLaVA-Instruct", None)):
        folder = downloads / "data" / name
        rows = list(open_manifest(folder / "subset.json"))
        assert len(rows) == 12
        shown = {row["image"] for row in rows if "image" in row}
        assert images is None or len(shown) == images
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == shown
        for row in rows:
            assert len(conversation(row)[0]) == 2
    kinds = {row.get("image", "none").split("/")[0] for row in rows}
    assert kinds == {"coco", "none"}


def test_the_same_rows_every_time_and_others_for_another_seed(downloads: Path) -> None:
    def chosen(*more: str) -> list[str]:
        main(arguments(downloads, "--rows", "8", *more))
        return [row["id"] for row in open_manifest(downloads / "data" / "LLaVA-Pretrain" / "subset.json")]

    first = chosen()
    assert chosen() == first == sorted(first, key=lambda one: int(one[1:]))
    assert chosen("--seed", "1") != first


def test_images_of_a_folder_do_as_well(downloads: Path) -> None:
    with zipfile.ZipFile(downloads / "train2017.zip") as archive:
        archive.extractall(downloads)
    main([*arguments(downloads, "--rows", "100"), "--coco", str(downloads / "train2017")])
    assert len(list((downloads / "data" / "LLaVA-Instruct").rglob("*.png"))) == 10


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png", "a/../../outside.png"])
def test_no_image_leads_out_of_the_folder(downloads: Path, name: str) -> None:
    (downloads / "captions.json").write_text(json.dumps([{"id": "a", "image": name, "conversations": []}]))
    with pytest.raises(DataError, match="is not below the folder of the data"):
        main(arguments(downloads))


def test_what_is_missing_or_broken_is_said_in_one_line(downloads: Path) -> None:
    (downloads / "images.zip").write_bytes(b"half")
    command = [sys.executable, "-m", "studies.laptop.subset", *arguments(downloads)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {downloads / 'images.zip'}: is no archive; download it again: File is not a zip file"
    ]
    (downloads / "mix.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list of rows"):
        main([*arguments(downloads), "--captions", str(downloads / "mix.json")])


def test_fewer_rows_than_asked_for_are_all() -> None:
    assert choose([{"id": i} for i in range(5)], 10, 0, lambda row: row["id"] != 2) == [{"id": i} for i in (0, 1, 3, 4)]
