"""How a rank ends, and what it leaves for whoever launched it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainers.errors import CandidateError, CrashedError, DataError, PreemptedError
from trainers.ranks import gpu_memory, preemption
from trainers.ranks.error_file import read_error
from trainers.ranks.group import ALONE, Group, rank_device
from trainers.ranks.rank import run_rank


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_what_it_raises_is_left_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="DataError: no such data"):
        run_rank(raising(DataError("no such data")), tmp_path)
    found = read_error(tmp_path)
    assert (type(found), str(found)) == (DataError, "no such data")


def test_asked_to_stop_it_leaves_no_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run_rank(raising(PreemptedError("as asked")), tmp_path)
    assert ended.value.code == preemption.EXIT_CODE
    assert read_error(tmp_path) is None


@pytest.mark.parametrize(("held", "kind"), [(0, CandidateError), (40 * 10**9, CrashedError)])
def test_weights_that_do_not_fit_are_told_by_who_held_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, kind: type[Exception]
) -> None:
    monkeypatch.setattr(gpu_memory, "_held", held)
    with pytest.raises(SystemExit, match="out of memory with the model alone"):
        run_rank(raising(torch.OutOfMemoryError("CUDA out of memory")), tmp_path)
    assert type(read_error(tmp_path)) is kind


def test_a_rank_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_device() == torch.device("cuda", 1) == chosen[0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SystemExit, match="more processes on this machine than its 2 GPUs: lower processes"):
        run_rank(lambda: None, tmp_path)


def test_shares_are_every_so_many_items() -> None:
    shares = [list(Group(rank, 3).share(range(8))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert ALONE.gather(["a", "b"]) == ["a", "b"]
