"""What all forms of the law share: their terms, the features of a pool, and the protocols that a form satisfies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from acsearch.tables.table import Table
from trainers.errors import ConfigError

Array = NDArray[np.float64]
Index = NDArray[np.intp]


TERMS = ("1", "A", "C", "A2", "AC", "C2")
FULL = TERMS[1:]
WITHOUT_C = ("A", "A2")


def parse_terms(text: str) -> tuple[str, ...]:
    """Read a set of terms.

    Args:
        text: `full`, or terms joined by `+`, such as `A+A2+C`.

    Returns:
        The terms without duplicates, in the order of `FULL`.

    Raises:
        ConfigError: a term is unknown; the message names it.
    """
    if text == "full":
        return FULL
    given = text.split("+")
    for term in given:
        if term not in FULL:
            raise ConfigError(f"no term {term!r} in {text!r}; the terms are {', '.join(FULL)}, or 'full' for all")
    return tuple(term for term in FULL if term in given)


@dataclass(frozen=True, eq=False)
class Features:
    """A and C of a pool of N candidates for M benchmarks, min-max scaled over the pool.

    Attributes:
        alignment: (N, M) in [0, 1].
        correspondence: (N,) in [0, 1]; None where C is not known for all candidates.
    """

    alignment: Array
    correspondence: Array | None

    @classmethod
    def of(cls, table: Table) -> Features:
        """Compute the features of all candidates of a table."""
        correspondence = _min_max(table.correspondence) if table.has_correspondence else None
        return cls(_min_max(table.alignment), correspondence)

    def design(self, terms: Sequence[str] = TERMS) -> Array:
        """(N, M, terms) value of each term; the terms with C are zero where C is unknown."""
        a = self.alignment
        c = np.zeros_like(a) if self.correspondence is None else np.broadcast_to(self.correspondence[:, None], a.shape)
        design = np.empty((*a.shape, len(terms)))
        for column, term in enumerate(terms):
            design[..., column] = _TERM[term](a, c)
        return design


_TERM = {
    "1": lambda a, c: np.ones_like(a),
    "A": lambda a, c: a,
    "C": lambda a, c: c,
    "A2": lambda a, c: a * a,
    "AC": lambda a, c: a * c,
    "C2": lambda a, c: c * c,
}


def _min_max(values: Array) -> Array:
    """Scale each column to [0, 1]; a column without variation becomes 0."""
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    scaled: Array = (values - low) / np.where(span > 0, span, 1.0)
    return scaled


class Prediction(Protocol):
    """What a form of the law predicts for a pool after some finetunes. All scores are scaled (floor 0, ceiling 1)."""

    @property
    def fitted(self) -> Array:
        """(N, M) the value of the law for every candidate, also for those that were finetuned."""
        ...

    def effective_weights(self) -> Array:
        """(M,) effective number of weights that are fitted to the data, counting the intercept."""
        ...

    def covers(self, row: int, scores: Array, level: float) -> Array:
        """Whether prediction intervals contain the scores of a candidate that was not finetuned.

        Args:
            row: Row of the candidate in the pool.
            scores: (M,) its scaled scores.
            level: Probability of the interval, such as 0.8.

        Returns:
            (M,) 1 where the interval contains the score, 0 where it does not, NaN where there is no interval.
        """
        ...

    def weight_intervals(self, level: float) -> dict[str, Array]:
        """Central intervals of the weights.

        Args:
            level: Probability of the interval, such as 0.8.

        Returns:
            By term (3, M): estimate, lower and upper end for each benchmark; the ends are NaN without an interval.
        """
        ...

    @property
    def term_weights(self) -> dict[str, float]:
        """Probability of each set of terms; the terms of a set are joined by `+`."""
        ...


class Surrogate(Protocol):
    """A form of the law: it is fitted to the finetuned candidates and predicts the whole pool."""

    def fit(self, features: Features, observed: Index, scores: Array) -> Prediction:
        """Fit the law.

        Args:
            features: Features of the whole pool.
            observed: (n,) rows of the candidates that have been finetuned.
            scores: (n, M) their scaled scores.
        """
        ...
