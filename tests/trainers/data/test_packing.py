"""A packed row holds what a padded batch holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support import tiny, tiny_samples
from trainers.contracts import Layout, Seen
from trainers.data.batch import Batch
from trainers.data.packing import pack
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.job import Stage, Tune


def padded() -> Batch:
    return Batch(
        names=("a", "b"),
        input_ids=torch.tensor([[5, 6, 7], [8, 9, 0]]),
        labels=torch.tensor([[IGNORE_INDEX, 6, 7], [8, 9, IGNORE_INDEX]]),
        attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
        places=torch.tensor([[-1, 0, 0], [1, -1, -1]]),
        seen=Seen((Layout(4, 4), Layout(4, 4)), torch.tensor([3, 4])),
    )


def test_samples_follow_each_other_and_positions_start_again() -> None:
    batch = pack(padded())
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.attention_mask.tolist() == [[1] * 5]
    assert batch.places.tolist() == [[-1, 0, 0, 1, -1]]
    assert (batch.names, batch.seen is not None) == (("a", "b"), True)


def test_no_sample_learns_to_follow_another() -> None:
    """Its first token, which nothing comes before, is not learnt; the padded batch stays what it is."""
    before = padded()
    assert pack(before).labels.tolist() == [[IGNORE_INDEX, 6, 7, IGNORE_INDEX, 9]]
    assert before.labels[1, 0] == 8


def test_a_row_has_room_for_the_longest_sample() -> None:
    given = {"data": "x", "template": "chat", "train": {"connector": Tune(mode="full", lr=0.1)}, "batch": 4}
    with pytest.raises(ValueError, match="tokens_per_pack: needs pack: true, and room"):
        Stage.model_validate(given | {"micro_batch": 2, "longest": 100, "pack": True, "tokens_per_pack": 99})
    with pytest.raises(ValueError, match="tokens_per_pack: needs pack: true"):
        Stage.model_validate(given | {"micro_batch": 2, "longest": 100, "tokens_per_pack": 200})


@pytest.mark.parametrize("longest", [200, 20, 17, 6])
def test_positions_are_those_of_the_batches(tmp_path: Path, longest: int) -> None:
    """Or more, where an image does not fit and is cut off."""
    samples: Samples = tiny_samples.samples(tiny.manifest(tmp_path), tiny.tokenizer())
    for image_tokens in (1, 9, 16):
        positions = samples.positions(image_tokens, longest)
        for row in range(len(samples)):
            one = samples.tokens(row, image_tokens, longest).input_ids
            taken = len(one) + (image_tokens - 1) * int((one == IMAGE_ID).sum())
            assert taken <= positions[row] <= longest
            assert taken == positions[row] or longest < 200
