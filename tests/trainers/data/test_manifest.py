"""Manifests are read strictly, and every bad sample is named before training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from support import tiny
from support.tiny_samples import say
from trainers.data.manifest import Manifest, check, read_manifest
from trainers.errors import DataError

Records = list[dict[str, Any]]


def parquet(path: Path, records: Records, image: Callable[[dict[str, Any]], Any], kind: Any) -> Path:
    """The same records with `image` as a column of some type; conversations as they are."""
    turns = pyarrow.list_(pyarrow.struct({"from": pyarrow.string(), "value": pyarrow.string()}))
    if isinstance(records[0]["conversations"], str):
        turns = pyarrow.string()
    columns = {
        "id": pyarrow.array([record["id"] for record in records]),
        "image": pyarrow.array([image(record) for record in records], kind),
        "conversations": pyarrow.array([record["conversations"] for record in records], turns),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=5)
    return path


def test_every_form_of_a_manifest_says_the_same(folder: Path, original: Manifest, words: Any) -> None:
    records = json.loads(original.path.read_text())
    in_json = [{**record, "conversations": json.dumps(record["conversations"])} for record in records]
    struct = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})

    def content(record: dict[str, Any]) -> bytes | None:
        return (folder / record["image"]).read_bytes() if "image" in record else None

    def dataset_image(record: dict[str, Any]) -> dict[str, Any]:
        """As datasets writes it: never null itself."""
        return {"bytes": content(record), "path": "elsewhere.png" if "image" in record else None}

    forms = [
        parquet(folder / "bytes.parquet", records, content, pyarrow.binary()),
        parquet(folder / "names.parquet", records, lambda record: record.get("image"), pyarrow.string()),
        parquet(folder / "struct.parquet", in_json, dataset_image, struct),
        parquet(folder / "paths.parquet", in_json, lambda one: {"bytes": None, "path": one.get("image")}, struct),
    ]
    assert sum(original.has_image(index) for index in range(24)) == 21
    for form in map(read_manifest, forms):
        assert len(form) == len(original) == 24
        assert form.lengths.tolist() == original.lengths.tolist()
        for index in range(24):
            assert (form.name(index), form.turns(index)) == (original.name(index), original.turns(index))
            assert form.has_image(index) == original.has_image(index) == (index % 8 != 7)
            image, expected = form.image(index), original.image(index)
            assert (image is None) == (expected is None)
            assert image is None or (image.mode == "RGB" and image.tobytes() == expected.tobytes())
        for template, supervised in (("plain", 24), ("chat", 7 * 24)):  # red; red </s>, it is red . </s>
            counts = check(form, template, words, image_tokens=16, longest=200)
            assert (counts["samples"], counts["images"]) == (24, 21)
            assert counts["supervised_tokens"] == supervised
            tokens = sum(len(form.tokens(i, template, words, 16, 200).input_ids) for i in range(24))
            assert counts["tokens"] == tokens + 21 * 15


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no reply": (say("<image>\nwhat"), "no supervised token within 40 positions"),
    "reply cut off": (say("<image>\n" + "what " * 30, "red"), "no supervised token within 40 positions"),
    "image cut off": (say("a", "red", "what " * 30 + "<image>", "red"), "its image of 16 tokens is not within 40"),
    "image too many": (say("what", "red"), "1 image but 0 <image>"),
    "image too few": (say("<image>\nwhat", "red", image=None), "no image but 1 <image>"),
    "two marks": (say("<image>\n<image>\nwhat", "red"), "1 image but 2 <image>"),
    "mark in the reply": (say("what", "red <image> red", image=None), "no image but 1 <image>"),
    "missing": (say("<image>\nwhat", "red", image="nowhere.png"), r"cannot read an image from '.*nowhere.png'"),
    "broken": (say("<image>\nwhat", "red", image="broken.png"), r"cannot read an image from '.*broken.png'"),
    "no picture": (say("<image>\nwhat", "red", image="text.png"), r"cannot read an image from '.*text.png'"),
    "two images": (say("<image>\nwhat", "red") | {"image": ["0.png", "1.png"]}, "must be the name of one file"),
    "empty": ({"id": "bad", "conversations": []}, "its conversation is empty"),
    "none": ({"id": "bad"}, "conversations must be a list of {from: human or gpt, value}"),
    "no value": ({"id": "bad", "conversations": [{"from": "human", "value": None}]}, "problem with value None"),
    "who": ({"id": "bad", "conversations": [{"from": "system", "value": "a"}]}, "problem with 'system'"),
    "no JSON": ({"id": "bad", "conversations": "[{"}, "conversations must be a list"),
    "turns": (say("a", "red") | {"conversations": say("a", "red")["conversations"][1:]}, "user first"),
}


@pytest.fixture(scope="module")
def broken_images(folder: Path, original: Manifest) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "text.png").write_text("not a picture")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.usefixtures("broken_images")
def test_a_bad_sample_is_named(folder: Path, words: Any, kind: str) -> None:
    sample, message = BAD[kind]
    path = folder / "bad.json"
    path.write_text(json.dumps([say("<image>\nwhat", "red", name="good"), sample]))
    with pytest.raises(DataError, match=r"bad.json: 1 of 2 samples can't be trained on: sample bad: .*" + message):
        check(read_manifest(path), "chat", words, image_tokens=16, longest=40)


@pytest.mark.usefixtures("broken_images")
def test_many_bad_samples_are_counted_and_the_first_named(folder: Path, words: Any) -> None:
    path = folder / "many.json"
    path.write_text(json.dumps([say("what", name=f"bad-{i}", image=None) for i in range(9)]))
    with pytest.raises(DataError, match=r"9 of 9 .* bad-0: .* bad-4: [^;]*; [^;]*; and 4 more$"):
        check(read_manifest(path), "chat", words, image_tokens=16, longest=40)
    path.write_text(json.dumps([say("<image>\nwhat", "red", image="broken.png")]))
    assert check(read_manifest(path), "chat", words, 16, 40, decode=False)["images"] == 1


def test_what_is_no_manifest_is_refused(folder: Path, original: Manifest) -> None:
    def fails(message: str, name: str, content: str | None) -> None:
        path = folder / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_manifest(path)

    fails("cannot be read", "nowhere.json", None)
    fails("cannot be read", "half.json", "[{")
    fails("must be a list of samples", "one.json", "{}")
    fails("must be a list of samples", "texts.json", '["a"]')
    fails("no sample in it", "none.json", "[]")
    fails("a manifest is a .json or a .parquet file", "data.jsonl", "{}")
    fails("cannot be read", "text.parquet", "not parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"]}), folder / "id.parquet")
    fails("no column 'conversations'; it has id", "id.parquet", None)


def test_a_long_sample_is_cut_to_its_positions(original: Manifest, words: Any) -> None:
    whole = original.tokens(0, "chat", words, 16, 200)
    assert len(whole.input_ids) + 15 == 39
    cut = original.tokens(0, "chat", words, 16, 35)
    assert len(cut.input_ids) + 15 == 35
    assert cut.labels.tolist() == whole.labels[:20].tolist()


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    path = tiny.manifest(tmp_path, 4, turns=1)
    digest = read_manifest(path).digest
    assert read_manifest(path).digest == digest
    status = (tmp_path / "1.png").stat()
    tiny.picture("red", 99).save(tmp_path / "1.png")
    os.utime(tmp_path / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = read_manifest(path).digest
    assert changed != digest
    path.write_text(path.read_text().replace("red", "blue"))
    assert read_manifest(path).digest not in (digest, changed)
