"""In which order samples are trained on: a pure function of (seed, epoch) and of the texts' lengths.

Every candidate sees the same samples in the same optimizer steps, whatever its encoder, its number of image tokens, the
number of processes or of loader workers. A position is a count of global samples, so a run may be taken up with another
number of processes.

    order    0 1 2 3 | 4 5 6 7 | ...     global batches of 4, one optimizer step each
    rank 0   0   2     4   6             with 2 processes: every second one, so that lengths are balanced
    rank 1     1   3     5   7
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which samples a process trains on.

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

    def micro_batches(self, step: int, rank: int, world: int, micro: int) -> list[np.ndarray]:
        """A process's part of a step, in micro-batches. Disjoint and exhaustive over ranks.

        Args:
            step: the optimizer step, counted from 0.
            rank: the process, counted from 0.
            world: the number of processes.
            micro: samples of a micro-batch.

        Returns:
            Indices of the samples of each micro-batch. Each rank gets the same number of micro-batches, of which some
            may be empty at the end of an epoch.
        """
        whole = self.global_batch(step)
        mine = whole[rank::world]
        return [mine[i : i + micro] for i in range(0, int(np.ceil(len(whole) / world)), micro)]

    def longest(self, micro: int, extra: np.ndarray | int = 0) -> np.ndarray:
        """The micro-batch of the longest samples, which needs most memory.

        Args:
            micro: samples of a micro-batch.
            extra: (N,) characters that the samples' images count as.
        """
        return np.argsort(-(self.lengths + extra), kind="stable")[:micro]

    def _order(self, epoch: int) -> np.ndarray:
        orders: dict[int, np.ndarray] = self.__dict__.setdefault("_orders", {})
        if epoch not in orders:
            orders.clear()  # one epoch at a time
            orders[epoch] = epoch_order(self.lengths, self.batch, self.seed, epoch)
        return orders[epoch]
