"""Samples one after the other in a single row, in place of padding.

A token sees its own sample alone: positions start again with every sample, by which the attention tells them apart.

    padded            packed
    a a a a a         a a a a a b b c c c     one row
    b b . . .         0 1 2 3 4 0 1 0 1 2     position_ids
    c c c . .
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from trainers.data.batch import Batch
from trainers.data.sampler import Share
from trainers.data.templates import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class Packed:
    """Micro-batches of as many samples as fit into a row, with equally many tokens on all processes.

    Attributes:
        positions: (N,) that each sample takes, with its images.
        tokens: the most that a row may hold; at least the longest sample.
    """

    positions: np.ndarray
    tokens: int

    def __call__(self, samples: np.ndarray, world: int) -> Share:
        """Always the next longest sample to the row that has the fewest tokens, in as few rows as can be."""
        sizes = self.positions[samples]
        rounds = max(1, -(-int(sizes.sum()) // (world * self.tokens)))
        while True:
            rows = _balanced(sizes, world * rounds)
            if max(int(sizes[row].sum()) for row in rows) <= self.tokens:
                break
            rounds += 1
        rows.sort(key=lambda row: -int(sizes[row].sum()))
        return [[samples[rows[place * world + rank]] for place in range(rounds)] for rank in range(world)]

    def area(self, samples: np.ndarray) -> int:
        return int(self.positions[samples].sum())


def _balanced(sizes: np.ndarray, rows: int) -> list[np.ndarray]:
    """Places of the samples in each row."""
    held: list[list[int]] = [[] for _ in range(rows)]
    loads = [(0, row) for row in range(rows)]
    for place in np.argsort(-sizes, kind="stable").tolist():
        load, row = loads[0]
        held[row].append(place)
        heapq.heapreplace(loads, (load + int(sizes[place]), row))
    return [np.array(sorted(row), dtype=np.int64) for row in held]


def pack(batch: Batch) -> Batch:
    """Put the samples of a padded batch into one row."""
    kept = batch.attention_mask.bool()
    position_ids = torch.arange(kept.shape[1]).expand(kept.shape)
    labels = batch.labels.clone()
    labels[:, 0] = IGNORE_INDEX  # nothing of its own sample comes before it
    input_ids = batch.input_ids[kept].unsqueeze(0)
    return replace(
        batch,
        input_ids=input_ids,
        labels=labels[kept].unsqueeze(0),
        attention_mask=torch.ones_like(input_ids),
        places=batch.places[kept].unsqueeze(0),
        position_ids=position_ids[kept].unsqueeze(0),
    )


class MakesBatches(Protocol):
    """A `Batcher`, or what changes its batches."""

    def batch(self, samples: list[int]) -> Batch: ...


@dataclass(frozen=True)
class Packer:
    """Makes packed batches.

    Attributes:
        padded: makes padded ones.
    """

    padded: MakesBatches

    def batch(self, samples: list[int]) -> Batch:
        """The batch of these samples, in one row."""
        return pack(self.padded.batch(samples))
