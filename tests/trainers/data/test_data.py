"""Manifests read strictly, every bad sample named before training, and an order that depends on the seed alone."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from support import tiny
from trainers.data.collate import Batcher, load
from trainers.data.feature_cache import FeatureCache
from trainers.data.manifest import Manifest, check, read_manifest
from trainers.data.sampler import Schedule, epoch_order
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.encoders import load_registry
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.errors import DataError
from trainers.representation import parse

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def original(folder: Path) -> Manifest:
    """24 samples of two turns, three of them without an image, as LLaVA's JSON."""
    return read_manifest(tiny.manifest(folder, turns=2))


@pytest.fixture(scope="module")
def vision(folder: Path) -> VisionRepresentation:
    registry = load_registry(tiny.encoders(folder))
    return build_representation(parse("clip@32+siglip@32"), registry)


# -- manifests ---------------------------------------------------------------------------------------------------------


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


def say(*said: str, image: str | None = "0.png", name: str = "bad") -> dict[str, Any]:
    turns = [{"from": role, "value": text} for role, text in zip(itertools.cycle(["human", "gpt"]), said, strict=False)]
    return {"id": name, "conversations": turns} | ({"image": image} if image is not None else {})


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


# -- order -------------------------------------------------------------------------------------------------------------

SHAPES = list(itertools.product((1, 7, 24, 50), (1, 4, 12), (1, 2, 3, 8), (1, 2, 5)))


@pytest.mark.parametrize(("samples", "batch", "world", "micro"), SHAPES)
def test_ranks_are_disjoint_and_exhaustive(samples: int, batch: int, world: int, micro: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, samples)
    schedule = Schedule(lengths, batch, seed=3, epochs=2)
    seen: list[int] = []
    for step in range(schedule.steps):
        parts = [schedule.micro_batches(step, rank, world, micro) for rank in range(world)]
        assert len({len(part) for part in parts}) == 1  # or some rank would wait for another
        assert len(parts[0]) >= 1
        assert all(len(one) <= micro for part in parts for one in part)
        taken = [int(sample) for part in parts for one in part for sample in one]
        assert sorted(taken) == sorted(schedule.global_batch(step).tolist())  # whatever the world
        seen += taken
    for epoch in range(2):
        assert sorted(seen[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@pytest.mark.parametrize(("samples", "batch", "epochs", "steps"), [(10, 4, 3, 9), (10, 4, 0.5, 2), (10, 4, 1.1, 4)])
def test_steps_of_an_epoch(samples: int, batch: int, epochs: float, steps: int) -> None:
    """10 samples in batches of 4 are 3 steps an epoch, the last of 2 samples."""
    assert Schedule(np.ones(samples), batch, seed=0, epochs=epochs).steps == steps
    assert Schedule(np.ones(samples), batch, seed=0, epochs=0.001).steps == 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    first = epoch_order(lengths, 8, seed=1, epoch=0)
    np.random.default_rng(5).random(3)
    torch.rand(3)
    assert first.tolist() == epoch_order(lengths.copy(), 8, seed=1, epoch=0).tolist()
    others = [epoch_order(lengths, 8, seed, epoch).tolist() for seed, epoch in ((1, 1), (2, 0), (0, 1))]
    assert len({tuple(one) for one in [first.tolist(), *others]}) == 4
    by_hand = Schedule(lengths, 8, seed=1, epochs=3)
    later = [by_hand.global_batch(step).tolist() for step in (120, 3, 75)]  # whatever was asked for before
    fresh = [Schedule(lengths, 8, seed=1, epochs=3).global_batch(step).tolist() for step in (120, 3, 75)]
    assert later == fresh


def test_a_batch_holds_texts_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 1000)
    grouped = epoch_order(lengths, 10, seed=0, epoch=0).reshape(-1, 10)
    spread = np.ptp(lengths[grouped], axis=1).mean()
    assert spread < 0.2 * np.ptp(lengths[np.random.default_rng(1).permutation(1000).reshape(-1, 10)], axis=1).mean()
    heads = lengths[grouped].mean(axis=1)
    assert abs(np.corrcoef(heads[:-1], heads[1:])[0, 1]) < 0.3  # and the batches themselves come in no order of length


def test_the_longest_come_first_in_the_rehearsal() -> None:
    schedule = Schedule(np.array([5, 9, 1, 9, 7]), 2, seed=0)
    assert schedule.longest(3).tolist() == [1, 3, 4]
    assert schedule.longest(2, extra=np.array([0, 0, 100, 0, 100])).tolist() == [4, 2]


# -- batches and cached features ---------------------------------------------------------------------------------------


def batcher(manifest: Manifest, vision: VisionRepresentation, words: Any, cache: FeatureCache | None = None) -> Batcher:
    return Batcher(manifest, vision, words, "chat", image_tokens=16, longest=200, pad_id=0, cache=cache)


def test_a_batch(original: Manifest, vision: VisionRepresentation, words: Any) -> None:
    batch = batcher(original, vision, words).batch([6, 7, 8])  # the second has no image
    assert batch.names == ("sample-6", "sample-7", "sample-8")
    assert (batch.input_ids == IMAGE_ID).sum(1).tolist() == [16, 0, 16]
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    for row, sample in enumerate((6, 7, 8)):
        alone = original.tokens(sample, "chat", words, 16, 200)
        kept = batch.attention_mask[row].bool()
        assert kept.sum() == len(alone.input_ids) + (15 if sample != 7 else 0)
        assert batch.input_ids[row, ~kept].eq(0).all()
        assert batch.labels[row, ~kept].eq(IGNORE_INDEX).all()
        assert (
            batch.labels[row][batch.labels[row] != IGNORE_INDEX].tolist() == alone.labels[alone.labels != -100].tolist()
        )
        text = batch.input_ids[row, kept & (batch.input_ids[row] != IMAGE_ID)]
        assert text.tolist() == [token for token in alone.input_ids.tolist() if token != IMAGE_ID]
    assert [view.shape for view in batch.views] == [(2, 3, 32, 32), (2, 3, 32, 32)]
    assert len(batch.seeds) == 2


def test_a_process_without_a_sample_gets_one_that_counts_nothing(
    original: Manifest, vision: VisionRepresentation, words: Any
) -> None:
    batch = batcher(original, vision, words).batch([])
    assert batch.labels.eq(IGNORE_INDEX).all()
    assert len(batch.seeds) == 1


def test_loaders_make_the_same_batches(original: Manifest, vision: VisionRepresentation, words: Any) -> None:
    plan = [np.array(rows) for rows in ([3, 1], [7], [2, 15, 4], [])]
    before = torch.get_rng_state()
    alone, helped = (list(load(batcher(original, vision, words), plan, workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert one.names == other.names
        for name in ("input_ids", "labels", "attention_mask", "seeds"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert all(map(torch.equal, one.views, other.views))


def test_cached_features_are_the_live_ones(
    tmp_path: Path, original: Manifest, vision: VisionRepresentation, words: Any
) -> None:
    cache = FeatureCache(tmp_path, vision, original)
    assert not cache.full
    told: list[tuple[int, int]] = []
    cache.fill(batch_size=8, progress=lambda done, of: told.append((done, of)))
    assert cache.full
    assert told == [(8, 21), (16, 21), (21, 21)] * 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2
    live, cached = batcher(original, vision, words), batcher(original, vision, words, FeatureCache(*vars_of(cache)))
    for rows in ([0, 1, 2], [7, 6], [7], [15, 23], []):
        expected, found = live.batch(rows), cached.batch(rows)
        assert torch.equal(found.input_ids, expected.input_ids)
        assert len(found.seeds) == len(expected.seeds)
        assert [tuple(part.shape) for part in found.features] == [
            (len(expected.seeds), 4, 4, 24),
            (len(expected.seeds), 4, 4, 16),
        ]
        if len(expected.seeds):
            for feature, encoder, view in zip(found.features, vision.parts, expected.views, strict=True):
                torch.testing.assert_close(feature, encoder.encode(view, expected.seeds), atol=1e-5, rtol=1e-5)
    alone = VisionRepresentation([vision.parts[1]], vision.joining)
    FeatureCache(tmp_path, alone, original).fill()  # is there already, whatever it was joined with
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    squashed = VisionRepresentation([vision.parts[1]], vision.joining, "squash")
    assert not FeatureCache(tmp_path, squashed, original).full


def vars_of(cache: FeatureCache) -> tuple[Any, ...]:
    return cache.folder, cache.vision, cache.manifest


def test_features_of_a_manifest_without_images(tmp_path: Path, vision: VisionRepresentation, words: Any) -> None:
    path = tmp_path / "text.json"
    path.write_text(json.dumps([say("what", "red", image=None)]))
    cache = FeatureCache(tmp_path / "features", vision, read_manifest(path))
    cache.fill()
    batch = batcher(cache.manifest, vision, words, cache).batch([0])
    assert [tuple(part.shape) for part in batch.features] == [(0, 4, 4, 24), (0, 4, 4, 16)]


def test_an_image_that_cannot_be_read_leaves_no_features(tmp_path: Path, vision: VisionRepresentation) -> None:
    path = tiny.manifest(tmp_path, 4, turns=1)
    (tmp_path / "2.png").unlink()
    cache = FeatureCache(tmp_path / "features", vision, read_manifest(path))
    with pytest.raises(DataError, match="sample sample-2: cannot read an image"):
        cache.fill()
    assert not cache.full
