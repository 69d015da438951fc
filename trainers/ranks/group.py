"""A rank among the others of its task: its share of the work, and what it tells them.

Work is shared out item by item, and what became of the items is put together in their order, by one rank. So sums over
them do not depend on how many ranks there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainers.errors import TrainingError
from trainers.utils.locks import Locks

T = TypeVar("T")


def timeout(minutes: float) -> timedelta:
    """How long ranks wait in a collective for one that does not come; the others of one that ended are ended at once.

    Args:
        minutes: unless $ACSEARCH_COLLECTIVE_SECONDS says something else.
    """
    return timedelta(seconds=float(os.environ.get("ACSEARCH_COLLECTIVE_SECONDS", 60 * minutes)))


@dataclass(frozen=True)
class Group:
    """The ranks of a task.

    Attributes:
        rank: this process, counted from 0.
        size: how many they are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank does what one must do for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this rank's."""
        return items[self.rank :: self.size]

    def gather(self, made: list[T]) -> list[T]:
        """What all ranks made of their shares, in the order of the items; nothing on ranks but the first."""
        if self.size == 1:
            return made
        parts: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(made, parts)
        if parts is None:
            return []
        return [parts[place % self.size][place // self.size] for place in range(sum(map(len, parts)))]

    def broadcast(self, value: T) -> T:
        """What the first rank has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


@contextmanager
def joined() -> Iterator[Group]:
    """The group of this process: the one that there is, or one of gloo for as long as the block lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", timeout=timeout(minutes=30))
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        if ours:
            dist.destroy_process_group()


@contextmanager
def working_in(folder: Path) -> Iterator[Group]:
    """The group of a task's ranks. Waits first for whoever else on this machine does the task in this folder."""
    first = os.environ.get("RANK", "0") == "0"
    with Locks(folder).exclusive("lock") if first else nullcontext(), joined() as group:
        yield group


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank has ended; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def rank_device() -> torch.device:
    """Where this rank computes: its own GPU, or the CPU.

    Raises:
        TrainingError: there are more ranks on this machine than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= there:
        raise TrainingError(f"more processes on this machine than its {there} GPUs: lower processes to that")
    device = torch.device("cuda", place)
    torch.cuda.set_device(device)
    return device
