"""Samples with several images and with videos: in the index, in batches and among cached features."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from support import tiny
from support.tiny_samples import samples, say
from trainers.data.collate import Batcher
from trainers.data.feature_cache import ALONE, FeatureCache
from trainers.data.samples import Samples, read_samples
from trainers.data.templates import IMAGE_ID
from trainers.encoders import load_registry
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.encoders.videos import chosen_frames, read_frames, video_shape
from trainers.errors import DataError
from trainers.representation import parse


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, words: Any) -> Samples:
    return samples(tiny.mixed_manifest(tmp_path_factory.mktemp("mixed")), words)


def test_the_index_has_every_image(mixed: Samples) -> None:
    assert [len(mixed.images_of(row)) for row in range(4)] == [1, 2, 1, 0]
    assert mixed.sizes[:4].tolist() == [[40, 30, 1], [40, 30, 1], [20, 70, 1], [32, 24, 5]]
    assert [len(frames) for row in range(4) for frames in mixed.visuals(row)] == [1, 1, 1, 5]
    assert [image.size for (image,) in mixed.visuals(1)] == [(40, 30), (20, 70)]
    assert [len(mixed.visuals(1, count)) for count in (0, 1, 2)] == [0, 1, 2]
    few = Samples(mixed.folder, mixed.source, frames=2)
    assert few.sizes[3].tolist() == [32, 24, 2]
    assert [len(frames) for frames in few.visuals(2)] == [2]
    assert (few.frames_key, mixed.frames_key) == ("-2f", "-8f")


def test_positions_and_cuts_by_hand(mixed: Samples) -> None:
    """user: <image> <image> what colour is the shape ? assistant: ...: images of 3 and 5 positions."""
    counts = np.array([3, 5])
    whole = mixed.tokens(1, counts, 200).input_ids
    assert whole[1:3].tolist() == [IMAGE_ID, IMAGE_ID]
    assert len(mixed.tokens(1, counts, 9).input_ids) == 3  # both fit: 1 + 3 + 5
    assert mixed.tokens(1, counts, 8).input_ids.tolist() == whole[:2].tolist()  # the second does not
    assert mixed.tokens(1, counts, 3).input_ids.tolist() == whole[:1].tolist()
    every = np.full(len(mixed.sizes), 4)
    positions = mixed.positions(every, 200)
    for row in range(12):
        ids = mixed.tokens(row, every[: len(mixed.images_of(row))], 200).input_ids
        assert positions[row] == len(ids) + 3 * int((ids == IMAGE_ID).sum())
    for longest in (6, 12, 17, 18, 22, 60):
        cut = [mixed.tokens(row, every[: len(mixed.images_of(row))], longest).labels for row in range(12)]
        assert mixed.idle(every, longest) == sum(not (labels[1:] != -100).any() for labels in cut)


@pytest.mark.parametrize("name", ["clip@32", "clip@32+siglip@32|anyres", "clip@32+siglip@32|native|append"])
def test_cached_features_are_the_live_ones(tmp_path: Path, folder: Path, mixed: Samples, name: str) -> None:
    vision = build_representation(parse(name), load_registry(tiny.encoders(folder)))
    cache = FeatureCache(tmp_path, vision, mixed)
    cache.fill(ALONE, batch_size=2)
    live, cached = (batcher(mixed, vision, one) for one in (None, cache))
    for rows in ([0, 1, 2, 3], [3], [2, 1], [1]):
        expected, found = live.batch(rows), cached.batch(rows)
        assert torch.equal(found.places, expected.places)
        assert (found.seen is None) == (expected.seen is None) == (rows == [3])
        if found.seen is not None and expected.seen is not None:
            assert found.seen.layouts == expected.seen.layouts
            for own, other in zip(found.seen.features, vision.encode(expected.seen), strict=True):
                assert own.grids == other.grids
                torch.testing.assert_close(own.values, other.values, atol=1e-5, rtol=1e-5)


def batcher(samples: Samples, vision: VisionRepresentation, cache: FeatureCache | None) -> Batcher:
    counts = samples.per_image(lambda width, height, frames: 2 + (width > 32) + frames)
    return Batcher(samples, vision, counts, longest=200, pad_id=0, cache=cache)


def test_places_count_images_through_the_batch(mixed: Samples, vision: VisionRepresentation) -> None:
    batch = batcher(mixed, vision, None).batch([1, 3, 2, 0])
    counts = [[int((row == image).sum()) for image in range(4)] for row in batch.places]
    assert counts == [[4, 3, 0, 0], [0] * 4, [0, 0, 7, 0], [0, 0, 0, 4]]
    assert torch.equal(batch.places >= 0, batch.input_ids == IMAGE_ID)
    assert batch.seen is not None
    assert [layout.frames for layout in batch.seen.layouts] == [1, 1, 5, 1]


def test_parquet_says_the_same(tmp_path: Path, words: Any, mixed: Samples) -> None:
    folder = mixed.source.manifest.parent
    records = json.loads(mixed.source.manifest.read_text())
    given = [one.get("image", []) for one in records]
    content = [[(folder / name).read_bytes() for name in ([one] if isinstance(one, str) else one)] for one in given]
    films = [(folder / one["video"]).read_bytes() if "video" in one else None for one in records]
    columns = {
        "id": [one["id"] for one in records],
        "conversations": [json.dumps(one["conversations"]) for one in records],
        "image": pyarrow.array(content, pyarrow.list_(pyarrow.binary())),
        "video": pyarrow.array(films, pyarrow.binary()),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "mixed.parquet")
    found = samples(tmp_path / "mixed.parquet", words)
    assert found.images_digest == mixed.images_digest
    assert found.sizes.tolist() == mixed.sizes.tolist()
    for row in range(4):
        for own, other in zip(found.visuals(row), mixed.visuals(row), strict=True):
            assert [one.tobytes() for one in own] == [one.tobytes() for one in other]


def test_frames_are_at_equal_distances(tmp_path: Path) -> None:
    path = tiny.video(tmp_path / "film.mp4", ["red", "green", "blue", "red", "green"])
    assert video_shape(path) == video_shape(path.read_bytes()) == (32, 24, 5)
    assert chosen_frames(3, 5) == [0, 2, 4]
    assert chosen_frames(8, 5) == [0, 1, 2, 3, 4]
    frames = read_frames(path, 3, 5)
    assert [int(np.asarray(frame).mean((0, 1)).argmax()) for frame in frames] == [0, 2, 1]  # red, blue, green


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a film")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")  # FFmpeg would open what it names
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    for source in (tmp_path / "text.mp4", tmp_path / "list.mp4", tmp_path / "none.mp4", buffer.getvalue()):
        with pytest.raises(DataError, match="cannot read a video from"):
            video_shape(source)


def test_rows_that_show_what_they_do_not_say_are_left_out(tmp_path: Path, words: Any) -> None:
    tiny.video(tmp_path / "film.mp4", ["red"])
    tiny.picture("red", 0).save(tmp_path / "0.png")
    rows = [
        say("<image>\n<image>\nwhat", "red") | {"image": ["0.png", "0.png", "0.png"]},
        say("<image>\nwhat", "red") | {"video": "film.mp4"},
        say("<video>\nwhat", "red", image=None, name="good") | {"video": "film.mp4"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = read_samples(
        tmp_path / "rows.json", None, template="chat", tokenizer=words, folder=tmp_path / "index", drop=0.9
    )
    reasons = [one.reason for one in found.dropped]
    assert reasons[0].startswith("3 images but 2 <image>")
    assert reasons[1] == "has images and a video; a sample shows one or the other"
    assert [found.name(row) for row in range(len(found))] == ["good"]
