"""In which order samples are trained on: a pure function of (seed, epoch) and of the texts' lengths.

Every candidate sees the same samples in the same optimizer steps, whatever its encoder, its number of image tokens, the
number of processes or of loader workers. A position is a count of global samples, so a run may be taken up with another
number of processes.

Which process computes which sample of an optimizer step is a function of the step's samples alone, and of how many
positions each takes with its images. Every process has the same number of micro-batches:

    order        0 1 2 3 | 4 5 6 7 | ...       global batches of 4, one optimizer step each
    positions    9 4 8 5                       of the first 4
    rank 0       0   3                         with 2 processes and micro-batches of one sample: the longest ones
    rank 1       2   1                         at the same time, then the shorter ones
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

_MEGABATCH = 16  # global batches among which samples are grouped by length


def epoch_order(lengths: np.ndarray, batch: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the samples whose successive global batches hold texts of similar length.

    Args:
        lengths: (N,) of the texts alone, since image tokens differ from candidate to candidate.
        batch: samples of a global batch.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        (N,) indices of the samples.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    whole = len(order) - len(order) % batch  # a short last batch stays last
    span = _MEGABATCH * batch
    groups = [order[i : min(i + span, whole)] for i in range(0, whole, span)]
    batches = [one for group in groups for one in group[np.argsort(-lengths[group], kind="stable")].reshape(-1, batch)]
    shuffled = [batches[i] for i in generator.permutation(len(batches))]
    return np.concatenate([*shuffled, order[whole:]])


Share = list[list[np.ndarray]]  # for every process its micro-batches, each the indices of its samples


class Split(Protocol):
    """How the samples of an optimizer step are split into micro-batches and processes."""

    @property
    def positions(self) -> np.ndarray:
        """(N,) that each sample takes, with its images."""
        ...

    def __call__(self, samples: np.ndarray, world: int) -> Share:
        """The share of each of `world` processes: equally many micro-batches, disjoint and exhaustive together."""
        ...

    def area(self, samples: np.ndarray) -> int:
        """Positions that are computed of a micro-batch."""
        ...


@dataclass(frozen=True, eq=False)
class Padded:
    """Micro-batches of samples that are padded to the longest of them.

    Attributes:
        positions: (N,) that each sample takes, with its images.
        micro: samples of a micro-batch.
    """

    positions: np.ndarray
    micro: int

    def __call__(self, samples: np.ndarray, world: int) -> Share:
        ordered = samples[np.argsort(-self.positions[samples], kind="stable")]
        together = world * self.micro  # samples that are computed at the same time
        rounds = [ordered[i : i + together] for i in range(0, max(len(ordered), 1), together)]
        return [[one[rank::world] for one in rounds] for rank in range(world)]

    def area(self, samples: np.ndarray) -> int:
        return len(samples) * int(self.positions[samples].max(initial=0))


def computed(share: Share, split: Split) -> int:
    """Positions that processes compute in a step, those included in which they wait for the slowest one.

    Args:
        share: of every process.
        split: by which it was made.
    """
    return len(share) * sum(max(map(split.area, together)) for together in zip(*share, strict=True))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which samples are trained on in which step.

    Attributes:
        lengths: (N,) of the samples' texts.
        batch: samples of an optimizer step, over all processes.
        seed: of the run.
        epochs: how often every sample is trained on; a fraction is allowed.
    """

    lengths: np.ndarray
    batch: int
    seed: int
    epochs: float = 1.0

    @property
    def steps(self) -> int:
        """Optimizer steps in all. Every whole epoch ends with its own short batch."""
        samples = round(self.epochs * len(self.lengths))
        whole, rest = divmod(samples, len(self.lengths))
        return max(1, whole * self._per_epoch + -(-rest // self.batch))

    @property
    def _per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch)

    def global_batch(self, step: int) -> np.ndarray:
        """Indices of the samples of one optimizer step: `batch` of them, or fewer at the end of an epoch."""
        epoch, place = divmod(step, self._per_epoch)
        return self._order(epoch)[place * self.batch : (place + 1) * self.batch]

    def _order(self, epoch: int) -> np.ndarray:
        orders: dict[int, np.ndarray] = self.__dict__.setdefault("_orders", {})
        if epoch not in orders:
            orders.clear()  # one epoch at a time
            orders[epoch] = epoch_order(self.lengths, self.batch, self.seed, epoch)
        return orders[epoch]
