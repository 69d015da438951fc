"""Features that were cached are those that are made live."""

from __future__ import annotations

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from support import tiny
from support.tiny_samples import batcher, samples, say
from trainers.data.feature_cache import FeatureCache, Team
from trainers.data.samples import Samples
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import DataError
from trainers.representation import Choice


def test_cached_features_are_the_live_ones(tmp_path: Path, original: Samples, vision: VisionRepresentation) -> None:
    cache = FeatureCache(tmp_path, vision, original)
    assert not cache.full
    told: list[tuple[int, int]] = []
    cache.fill(batch_size=8, progress=lambda done, of: told.append((done, of)))
    assert cache.full
    assert told == [(8, 21), (16, 21), (21, 21)] * 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2
    live, cached = batcher(original, vision), batcher(original, vision, FeatureCache(*vars_of(cache)))
    for rows in ([0, 1, 2], [7, 6], [7], [15, 23], []):
        expected, found = live.batch(rows), cached.batch(rows)
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.places, expected.places)
        assert (found.seen is None) == (expected.seen is None) == (rows in ([7], [15, 23]))
        if found.seen is not None and expected.seen is not None:
            assert found.seen.layouts == expected.seen.layouts
            for feature, own in zip(found.seen.features, vision.encode(expected.seen), strict=True):
                assert feature.grids == own.grids
                torch.testing.assert_close(feature.values, own.values, atol=1e-5, rtol=1e-5)
    alone = VisionRepresentation([vision.encoders[1]])
    FeatureCache(tmp_path, alone, original).fill()  # is there already, whatever it was joined with
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    squashed = VisionRepresentation([vision.encoders[1]], framing=Choice("squash"))
    assert not FeatureCache(tmp_path, squashed, original).full


def vars_of(cache: FeatureCache) -> tuple[Any, ...]:
    return cache.folder, cache.vision, cache.samples


def test_features_of_a_manifest_without_images(tmp_path: Path, vision: VisionRepresentation, words: Any) -> None:
    path = tmp_path / "text.json"
    path.write_text(json.dumps([say("what", "red", image=None)]))
    cache = FeatureCache(tmp_path / "features", vision, samples(path, words))
    cache.fill()
    batch = batcher(cache.samples, vision, cache).batch([0])
    assert cache.full
    assert batch.seen is None


def test_an_image_that_cannot_be_read_leaves_no_features(
    tmp_path: Path, vision: VisionRepresentation, words: Any
) -> None:
    cache = FeatureCache(tmp_path / "features", vision, samples(tiny.manifest(tmp_path, 4, turns=1), words))
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match="sample sample-2: cannot read an image"):
        cache.fill()
    assert not cache.full


def test_processes_extract_together_what_one_extracts_alone(
    tmp_path: Path, original: Samples, vision: VisionRepresentation
) -> None:
    together = threading.Barrier(3)
    caches = [FeatureCache(tmp_path / "together", copy.deepcopy(vision), original) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        teams = [Team(rank, 3, together.wait) for rank in range(3)]
        list(pool.map(lambda cache, team: cache.fill(team, batch_size=4), caches, teams))
    alone = FeatureCache(tmp_path / "alone", vision, original)
    alone.fill(batch_size=4)
    for part in range(2):
        assert caches[0].path(part).read_bytes() == alone.path(part).read_bytes()
    assert len([*(tmp_path / "together").iterdir()]) == 2
