"""Batches: padding, images in their places, loaders in processes of their own."""

from __future__ import annotations

import numpy as np
import torch

from support.tiny_samples import batcher
from trainers.data.collate import load
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.encoders.joined import VisionRepresentation


def test_a_batch(original: Samples, vision: VisionRepresentation) -> None:
    batch = batcher(original, vision).batch([6, 7, 8])  # the second has no image
    assert batch.names == ("sample-6", "sample-7", "sample-8")
    assert (batch.input_ids == IMAGE_ID).sum(1).tolist() == [16, 0, 16]
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    for row, sample in enumerate((6, 7, 8)):
        alone = original.tokens(sample, 16, 200)
        kept = batch.attention_mask[row].bool()
        assert kept.sum() == len(alone.input_ids) + (15 if sample != 7 else 0)
        assert batch.input_ids[row, ~kept].eq(0).all()
        assert batch.labels[row, ~kept].eq(IGNORE_INDEX).all()
        assert (
            batch.labels[row][batch.labels[row] != IGNORE_INDEX].tolist() == alone.labels[alone.labels != -100].tolist()
        )
        text = batch.input_ids[row, kept & (batch.input_ids[row] != IMAGE_ID)]
        assert text.tolist() == [token for token in alone.input_ids.tolist() if token != IMAGE_ID]
    assert batch.seen is not None
    assert [[view.shape for view in part] for part in batch.seen.views] == [[(2, 3, 32, 32)], [(2, 3, 32, 32)]]
    assert len(batch.seen.seeds) == len(batch.seen.layouts) == 2
    assert [sorted(set(row)) for row in batch.places.tolist()] == [[-1, 0], [-1], [-1, 1]]


def test_a_process_without_a_sample_gets_one_that_counts_nothing(
    original: Samples, vision: VisionRepresentation
) -> None:
    batch = batcher(original, vision).batch([])
    assert batch.labels.eq(IGNORE_INDEX).all()
    assert batch.seen is not None
    assert len(batch.seen.layouts) == 1


def test_loaders_make_the_same_batches(original: Samples, vision: VisionRepresentation) -> None:
    plan = [np.array(rows) for rows in ([3, 1], [7], [2, 15, 4], [])]
    before = torch.get_rng_state()
    alone, helped = (list(load(batcher(original, vision), plan, workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert one.names == other.names
        for name in ("input_ids", "labels", "attention_mask", "places"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.seen is None) == (other.seen is None)
        if one.seen is not None and other.seen is not None:
            assert one.seen.layouts == other.seen.layouts
            assert torch.equal(one.seen.seeds, other.seen.seeds)
            for (view,), (copy,) in zip(one.seen.views, other.seen.views, strict=True):
                assert torch.equal(view, copy)
