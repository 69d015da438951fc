"""Who is blamed where a GPU's memory does not suffice."""

from __future__ import annotations

import pytest
import torch

from trainers.errors import CandidateError, CrashedError
from trainers.ranks.gpu_memory import blame, note_memory, out_of_memory


@pytest.mark.parametrize(("held", "error"), [(0, CandidateError), (1_900_000_000, CandidateError)])
def test_a_candidate_that_had_the_gpu_to_itself_is_too_large(held: int, error: type[Exception]) -> None:
    found = blame("on a micro-batch", "lower micro_batch", held)
    assert type(found) is error
    assert str(found) == "out of memory on a micro-batch: lower micro_batch"


def test_others_that_held_the_gpu_are_named_and_it_is_tried_again() -> None:
    found = blame("on a micro-batch", "lower micro_batch", 33_400_000_000)
    assert type(found) is CrashedError
    assert "other processes held 33 GB of the GPU when this one began" in str(found)


def test_what_is_free_is_asked_before_the_process_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * 10**9, 85 * 10**9))
    note_memory(torch.device("cpu"))
    assert type(out_of_memory("here", "less")) is CandidateError
    monkeypatch.setattr("trainers.ranks.gpu_memory._held", 0)
    note_memory(torch.device("cuda", 0))
    assert "held 45 GB" in str(out_of_memory("here", "less"))
