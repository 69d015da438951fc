"""Matching, PCK and alignment on cases that are worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acsearch.scores import matching
from acsearch.scores.alignment import (
    CosineResult,
    LikelihoodResult,
    alignment_cos,
    alignment_ll,
    caption_log_likelihood,
    cosine_alignment,
)
from acsearch.scores.matching import Queries, cosines, make_queries, products
from acsearch.scores.pairs import Pairs
from acsearch.scores.pck import CorrespondenceResult, Pck, evaluate, pck
from trainers.contracts import Tokens
from trainers.data.templates import IGNORE_INDEX
from trainers.errors import DataError, TrainingError

# two pairs: image 2 to 1 with keypoints in slots 0 and 2, image 1 to 0 with one in slot 1
PAIRS = Pairs(
    images=(Path("0"), Path("1"), Path("2")),
    sizes=np.full((3, 2), 30.0),
    source=np.array([2, 1]),
    target=np.array([1, 0]),
    source_points=np.zeros((2, 3, 2)),
    target_points=np.zeros((2, 3, 2)),
    mask=np.array([[True, False, True], [False, True, False]]),
    ids=np.array([[0, -1, 2], [-1, 1, -1]]),
    boxes=np.zeros((2, 4)),
    category=np.array([1, 0]),
    categories=("cat", "dog"),
    geometry=np.array([[True, False, False], [False, False, False]]),
)


def some_queries(grid: tuple[int, int] = (2, 3)) -> Queries:
    cells = np.array([[[3.9, 1.2], [0, 0], [-3.0, 5.0]], [[0, 0], [1.0, 0.5], [0, 0]]])
    truth = np.array([[[10.0, 20.0], [0, 0], [30.0, 40.0]], [[0, 0], [50.0, 60.0], [0, 0]]])
    return make_queries(
        PAIRS,
        grid,
        source_cells=cells,
        truth=truth,
        tolerance=np.array([5.0, 7.0]),
        scale=np.array([[10.0, 20.0], [30.0, 40.0]]),
        shift=np.array([[1.0, 2.0], [3.0, 4.0]]),
    )


def test_queries_are_sorted_by_target_and_cells_are_row_major() -> None:
    queries = some_queries()
    assert queries.targets.tolist() == [0, 1]
    assert queries.starts.tolist() == [0, 1, 3]
    assert queries.row.tolist() == [0, 1, 1]
    assert queries.pair.tolist() == [1, 0, 0]
    assert queries.slot.tolist() == [1, 0, 2]
    assert queries.source.tolist() == [1, 2, 2]
    assert queries.cell.tolist() == [0 * 3 + 1, 1 * 3 + 2, 1 * 3 + 0]  # what lies outside takes the nearest cell
    assert queries.same_cells.tolist() == [[1, 0], [2, 1], [0, 1]]
    assert queries.truth.tolist() == [[50, 60], [10, 20], [30, 40]]
    assert queries.tolerance.tolist() == [7, 5, 5]
    assert queries.scale.tolist() == [[30, 40], [10, 20], [10, 20]]
    assert queries.shift.tolist() == [[3, 4], [1, 2], [1, 2]]


def test_nearest_cells_are_rounded_and_stay_on_the_grid() -> None:
    """(50 - 3) / 30 = 1.57, (60 - 4) / 40 = 1.4; (10 - 1) / 10 = 0.9, (20 - 2) / 20 = 0.9; 2.9 and 1.9."""
    assert some_queries().nearest_cells.tolist() == [[2, 1], [1, 1], [2, 1]]
    assert some_queries((1, 2)).nearest_cells.tolist() == [[1, 0], [1, 0], [1, 0]]


def test_a_prediction_is_correct_nearer_than_the_tolerance() -> None:
    """Tolerances 7, 5, 5. Errors: (0, 6.9) in pixels; (3, 4), which is 5 exactly; (3, 3.9)."""
    queries = some_queries()
    wanted = queries.truth + np.array([[0, 6.9], [3, 4], [3, 3.9]])
    assert queries.correct((wanted - queries.shift) / queries.scale).tolist() == [True, False, True]


def test_products_and_cosines_of_joined_parts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = some_queries()
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, 2, 3, width, generator=generator) for width in (4, 5)]
    stored = [products(part, queries) for part in parts]
    for part, made in zip(parts, stored, strict=True):
        flat = part.reshape(3, 6, -1)
        for q in range(3):
            image = queries.targets[queries.row[q]]
            sought = flat[queries.source[q], queries.cell[q]]
            torch.testing.assert_close(made.dots[q], flat[image] @ sought)
            assert float(made.query[q]) == pytest.approx(float(sought @ sought), rel=1e-5)
        torch.testing.assert_close(made.target, flat[torch.from_numpy(queries.targets)].square().sum(-1))
    joined = torch.cat(parts, dim=-1).reshape(3, 6, -1)
    expected = torch.stack(
        [
            torch.nn.functional.cosine_similarity(
                joined[queries.source[q], queries.cell[q]], joined[queries.targets[queries.row[q]]], dim=-1
            )
            for q in range(3)
        ]
    )
    before = [made.dots.clone() for made in stored]
    for size in (1, 2, 3, 4096):
        monkeypatch.setattr(matching, "_ROWS", size)
        found = list(cosines(stored, queries))
        assert [len(one) for one in found] == [min(size, 3 - begin) for begin in range(0, 3, size)]
        torch.testing.assert_close(torch.cat(found), expected)
    assert all(
        torch.equal(one.dots, old) for one, old in zip(stored, before, strict=True)
    )  # nothing is summed in place
    with pytest.raises(ValueError, match=r"grid of \(2, 3\) for queries on \(3, 2\)"):
        products(parts[0], some_queries((3, 2)))


def test_features_of_length_zero_have_cosine_zero() -> None:
    queries = some_queries()
    made = products(torch.zeros(3, 2, 3, 4), queries)
    assert torch.cat(list(cosines([made], queries))).tolist() == [[0.0] * 6] * 3
    tiny = products(torch.full((3, 2, 3, 4), 1e-12), queries)
    torch.testing.assert_close(torch.cat(list(cosines([tiny], queries))), torch.ones(3, 6))


# -- PCK ---------------------------------------------------------------------------------------------------------------


def test_pck_by_hand() -> None:
    correct = np.array([True, False, True, True, False])
    pair = np.array([7, 7, 7, 2, 4])
    assert pck(correct, pair) == Pck(pytest.approx(100 * (2 / 3 + 1 + 0) / 3), pytest.approx(60), 3, 5)
    chosen = np.array([True, True, False, False, False])
    assert pck(correct, pair, chosen) == Pck(50, 50, 1, 2)
    assert pck(correct, pair, np.zeros(5, dtype=bool)) is None


def test_evaluation_by_hand() -> None:
    """Predictions (2, 1), (1, 1), (0, 0) for three queries: (63, 44) and (11, 22) and (1, 2) pixels."""
    queries = some_queries()
    stored = [products(torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0)), queries)]

    def decode(similarity: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        assert (similarity.shape, grid) == ((3, 6), (2, 3))
        return torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 0.0]])

    result = evaluate(stored, queries, PAIRS, decode, alpha=0.1, name="given")
    # found: (63, 44) for (50, 60) within 7: no; (11, 22) for (10, 20) within 5: yes; (1, 2) for (30, 40): no
    assert result.overall == Pck(25, pytest.approx(100 / 3), 2, 3)
    assert result.by_category == {"cat": Pck(0, 0, 1, 1), "dog": Pck(50, 50, 1, 2)}
    assert result.geometry_aware == Pck(100, 100, 1, 1)
    # position: (33, 4), (21, 22), (1, 22); ceiling: (63, 44), (11, 22), (21, 22)
    assert result.position == Pck(0, 0, 2, 3)
    assert result.ceiling == Pck(25, pytest.approx(100 / 3), 2, 3)
    assert (result.per_image, result.per_point, result.class_mean) == (25, pytest.approx(100 / 3), 25)
    assert (result.alpha, result.decode, result.grid) == (0.1, "given", (2, 3))
    written = result.to_json()
    assert (written["class_mean"], written["overall"]["per_image"]) == (25, 25)
    one = CorrespondenceResult(result.overall, {"a": Pck(10, 0, 1, 1), "b": Pck(40, 0, 9, 9)}, None, result.position,
                               result.ceiling, 0.1, "given", (2, 3))  # fmt: skip
    assert one.class_mean == 25


# -- alignment ---------------------------------------------------------------------------------------------------------


class FakeModel:
    """A model whose log-probabilities, or image tokens, are given."""

    def token_log_probs(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return batch

    def __init__(self, tokens: torch.Tensor | None = None) -> None:
        self.tokens = tokens
        self.asked: list[int] = []

    def image_tokens(self, images: list[int]) -> Tokens:
        assert self.tokens is not None
        self.asked.append(len(images))
        own = self.tokens[images]
        return Tokens(own.flatten(0, 1), (own.shape[1],) * len(own))


def test_likelihood_by_hand() -> None:
    """Sample means -1, -3 and -5 of 2, 1 and 3 tokens: mean -3, sd 2, 20 nats in 6 tokens."""
    first = torch.tensor([[-0.5, -1.5, -9.0], [-3.0, -9.0, -9.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    second = torch.tensor([[-4.0, -5.0, -6.0]]), torch.tensor([[1, 1, 1]]).bool()
    result = alignment_ll(FakeModel(), [first, second])  # type: ignore[arg-type, list-item]
    assert result.value == pytest.approx(-3)
    assert result.standard_error == pytest.approx(2 / math.sqrt(3))
    assert result.token_weighted == pytest.approx(-20 / 6)
    assert (result.samples, result.tokens) == (3, 6)
    assert result.to_json() == {name: getattr(result, name) for name in LikelihoodResult.__dataclass_fields__}
    alone = alignment_ll(FakeModel(), [second])  # type: ignore[arg-type, list-item]
    assert math.isnan(alone.standard_error)
    two = alignment_ll(FakeModel(), [first])  # type: ignore[arg-type, list-item]
    assert two.standard_error == pytest.approx(1)  # sd of -1 and -3 is sqrt 2
    empty = torch.tensor([[-1.0], [-1.0]]), torch.tensor([[True], [False]])
    with pytest.raises(DataError, match="sample 1 of a batch"):
        alignment_ll(FakeModel(), [empty])  # type: ignore[arg-type, list-item]


def test_likelihood_of_even_logits_is_that_of_chance() -> None:
    labels = torch.tensor([[IGNORE_INDEX, 1, 2, IGNORE_INDEX], [5, IGNORE_INDEX, IGNORE_INDEX, 3]])
    values = caption_log_likelihood(torch.zeros(2, 4, 7), labels)  # the label at 0 is predicted by nothing
    torch.testing.assert_close(values, torch.full((2,), -math.log(7)))
    logits = torch.zeros(1, 3, 2)
    logits[0, 0] = torch.tensor([0.0, math.log(3)])  # predicts the token at 1
    values = caption_log_likelihood(logits, torch.tensor([[IGNORE_INDEX, 1, 0]]))
    assert float(values[0]) == pytest.approx((math.log(3 / 4) + math.log(1 / 2)) / 2)


def test_cosines_of_models_by_hand() -> None:
    """Tokens at 0 and 90 degrees in image 0, both at 0 in images 1 and 2; references at 60 and at 90 degrees."""

    def at(*degrees: float) -> torch.Tensor:
        return torch.tensor([[math.cos(math.radians(one)), math.sin(math.radians(one))] for one in degrees])

    model = FakeModel(torch.stack([at(0, 90), at(0, 0), at(0, 0)]))
    one = FakeModel(torch.stack([at(60, 60, 180)] * 3) * 5)
    two = FakeModel(torch.stack([at(90)] * 3))
    result = alignment_cos(model, [one, two], [0, 1, 2], batch_size=2)  # type: ignore[arg-type, list-item]
    expected = ((0.5 + math.sqrt(0.75)) / 2 + 0.5 + 0.5) / 3, (1 / 2 + 0 + 0) / 3
    assert result.by_reference == pytest.approx(expected, abs=1e-6)
    assert result.value == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert result.images == 3
    assert model.asked == one.asked == [2, 1]
    assert result.to_json() == {name: getattr(result, name) for name in CosineResult.__dataclass_fields__}
    model.asked.clear()
    many = alignment_cos(model, [two], [1] * 33)  # type: ignore[arg-type, list-item]
    assert (model.asked, many.images) == ([16, 16, 1], 33)
    for images, references in (([], [one]), ([0], [])):
        with pytest.raises(DataError, match=f"got {len(images)} and {len(references)}"):
            alignment_cos(model, references, images)  # type: ignore[arg-type]


def test_cosine_of_a_zero_token_is_zero() -> None:
    tokens = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert cosine_alignment(tokens, torch.tensor([[3.0, 4.0]])) == pytest.approx(0.5)
    with pytest.raises(TrainingError, match="width 2 against a reference of width 3"):
        cosine_alignment(tokens, torch.ones(1, 3))


def test_a_cpu_multiplies_in_float32() -> None:
    left, right = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matching._multiply(left, right), left @ right.T, rtol=0, atol=0)
