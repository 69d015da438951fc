"""The sampler's order and shares, and the templates' labels, by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from support import tiny
from support.records import cannot_be_changed
from trainers.data import sampler, templates
from trainers.data.packing import Packed
from trainers.data.sampler import Padded, Schedule, computed, epoch_order
from trainers.data.templates import IGNORE_INDEX, IMAGE, IMAGE_ID, Turn, encode

X = IGNORE_INDEX


def test_records_cannot_be_changed() -> None:
    cannot_be_changed(sampler)
    cannot_be_changed(templates)


# -- order -------------------------------------------------------------------------------------------------------------


def test_batches_are_sorted_by_length_among_sixteen_and_the_short_one_stays_last() -> None:
    """67 samples in batches of 2: two groups of 32, a group of the 2 that are left, and the last sample."""
    lengths = np.random.default_rng(0).permutation(70)  # all different
    for count, batch in ((70, 2), (67, 2), (64, 4), (5, 5), (3, 8)):
        generator = np.random.default_rng([9, 2])
        drawn = generator.permutation(count)
        whole = count // batch * batch
        expected = []
        for begin in range(0, whole, 16 * batch):
            group = sorted(drawn[begin : min(begin + 16 * batch, whole)].tolist(), key=lambda one: -lengths[one])
            expected += [tuple(group[i : i + batch]) for i in range(0, len(group), batch)]
        order = epoch_order(lengths[:count], batch, seed=9, epoch=2)
        found = [tuple(order[i : i + batch].tolist()) for i in range(0, whole, batch)]
        assert sorted(found) == sorted(expected)
        assert order[whole:].tolist() == drawn[whole:].tolist()
        assert sorted(order.tolist()) == list(range(count))
        if len(found) > 8:
            assert found != expected  # the batches themselves are in random order


def test_of_equal_lengths_the_order_is_the_drawn_one() -> None:
    order = epoch_order(np.ones(32), 1, seed=0, epoch=0)
    group = np.random.default_rng([0, 0]).permutation(32)[:16]
    positions = [order.tolist().index(one) for one in group]
    assert len(set(positions)) == 16


def test_the_longest_samples_of_a_step_are_computed_at_the_same_time() -> None:
    positions = np.array([9, 4, 8, 5, 7, 7, 1])
    split = Padded(positions, 2)
    shares = [[one.tolist() for one in mine] for mine in split(np.array([0, 1, 2, 3, 4, 5, 6]), 2)]
    assert shares == [[[0, 4], [3, 6]], [[2, 5], [1]]]  # 9, 8, 7, 7 and then 5, 4, 1
    assert [split.area(np.array(one, dtype=int)) for one in ([0, 4], [3, 6], [])] == [18, 10, 0]
    assert computed(split(np.arange(7), 2), split) == 2 * (18 + 10)
    assert [[one.tolist() for one in mine] for mine in split(np.array([3]), 2)] == [[[3]], [[]]]


def test_rows_are_filled_evenly_and_not_beyond_their_room() -> None:
    positions = np.array([9, 4, 8, 5, 7, 7])
    shares = [[one.tolist() for one in mine] for mine in Packed(positions, 25)(np.arange(6), 2)]
    assert shares == [[[0, 1, 5]], [[2, 3, 4]]]  # 20 and 20
    narrow = Packed(positions, 12)(np.arange(6), 2)
    assert [[int(positions[one].sum()) for one in mine] for mine in narrow] == [[12, 9], [11, 8]]


def test_steps_and_epochs_by_hand() -> None:
    """10 samples in batches of 4: 3 steps an epoch. One epoch is the default."""
    schedule = Schedule(np.arange(10), 4, seed=1)
    assert (schedule.epochs, schedule.steps) == (1.0, 3)
    orders = [epoch_order(np.arange(10), 4, seed=1, epoch=epoch).tolist() for epoch in (0, 1, 2)]
    for step, (epoch, begin, end) in enumerate(
        [(0, 0, 4), (0, 4, 8), (0, 8, 10), (1, 0, 4), (1, 4, 8), (1, 8, 10), (2, 0, 4)]
    ):
        assert schedule.global_batch(step).tolist() == orders[epoch][begin:end]
    for epochs, steps in ((0.4, 1), (0.8, 2), (0.9, 3), (1.0, 3), (1.2, 4), (1.5, 5), (2.0, 6), (0.01, 1)):
        assert Schedule(np.arange(10), 4, 0, epochs).steps == steps


def test_an_order_is_made_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*arguments: Any) -> np.ndarray:
        made.append(arguments[-1])
        return epoch_order(*arguments)

    monkeypatch.setattr(sampler, "epoch_order", counted)
    schedule = Schedule(np.arange(10), 5, seed=0)
    for step in (0, 1, 2, 3, 2, 0):
        schedule.global_batch(step)
    assert made == [0, 1, 0]


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.tokenizer()


def test_plain_keeps_the_user_s_image_alone_and_learns_the_caption(words: Any) -> None:
    two = [Turn("user", f"{IMAGE}\nwhat is {IMAGE} ?"), Turn("assistant", "red")]
    coded = encode("plain", two, words, images=1)
    assert coded.input_ids.tolist() == [1, IMAGE_ID, 5]
    assert coded.labels.tolist() == [X, X, 5]
    more = [*two, Turn("user", "what is it ?"), Turn("assistant", "a big circle")]
    assert encode("plain", more, words, images=1).input_ids.tolist() == coded.input_ids.tolist()
    assert encode("plain", two[:1], words, images=1).labels.tolist() == [X, X]
    assert coded.input_ids.dtype == coded.labels.dtype == np.int64


def test_a_caption_ends_with_a_line_break_that_is_learnt() -> None:
    class Characters:
        """One token per character."""

        is_fast, bos_token_id, eos_token, chat_template = True, None, "#", None

        def __call__(self, text: str, add_special_tokens: bool, return_offsets_mapping: bool) -> dict[str, Any]:
            assert (add_special_tokens, return_offsets_mapping) == (False, True)
            return {"input_ids": [*map(ord, text)], "offset_mapping": [*pairwise(range(len(text) + 1))]}

    def shown(template: str, *texts: str) -> tuple[str, str]:
        turns = [Turn(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
        coded = encode(template, turns, Characters(), images=1)
        text = "".join("@" if one == IMAGE_ID else chr(one) for one in coded.input_ids)
        return text, "".join(one if label != X else "." for one, label in zip(text, coded.labels, strict=True))

    assert shown("plain", f"what {IMAGE}?", "red") == ("@red\n", ".red\n")
    assert shown("plain", f"{IMAGE}{IMAGE}") == ("@", ".")
    system = templates._VICUNA_SYSTEM
    text, learnt = shown("vicuna_v1", f" a {IMAGE}? ", f"b{IMAGE}c", "d?", "e")
    assert text == f"{system} USER: @\na ? ASSISTANT: @\nbc#USER: d? ASSISTANT: e#"
    assert (
        learnt == "." * len(f"{system} USER: @\na ? ASSISTANT:") + " .\nbc#" + "." * len("USER: d? ASSISTANT:") + " e#"
    )


def test_a_prompt_ends_where_the_reply_begins_and_has_no_labels(words: Any) -> None:
    asked = encode("chat", [Turn("user", "what is it ?")], words)
    answered = encode("chat", [Turn("user", "what is it ?"), Turn("assistant", "red")], words)
    assert answered.input_ids[: len(asked.input_ids)].tolist() == asked.input_ids.tolist()
    assert (asked.labels == X).all()
    assert answered.labels[len(asked.labels) :].tolist() == answered.input_ids[len(asked.labels) :].tolist()


def test_constants_are_those_of_llava() -> None:
    assert (IMAGE_ID, IGNORE_INDEX, IMAGE) == (-200, -100, "<image>")
