"""What every form of the law has in common: the terms of A and C, the features of a pool, and what a form offers."""

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
    """`full`, or terms joined by `+` such as `A+A2+C`, in the law's order. Raises ConfigError naming a wrong term."""
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

    alignment: (N, M).  correspondence: (N,), or None where it is not known for all of them.
    """

    alignment: Array
    correspondence: Array | None

    @classmethod
    def of(cls, table: Table) -> Features:
        """The features of a table's candidates."""
        correspondence = _min_max(table.correspondence) if table.has_correspondence else None
        return cls(_min_max(table.alignment), correspondence)

    def design(self, terms: Sequence[str] = TERMS) -> Array:
        """(N, M, terms). Terms with C are zero where C is unknown."""
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
    """What a form of the law believes about a pool after some finetunes. Scores are scaled throughout."""

    @property
    def fitted(self) -> Array:
        """(N, M) the law's own value for every candidate, finetuned ones included."""
        ...

    def effective_weights(self) -> Array:
        """(M,) number of weights that the data decide, the intercept among them."""
        ...

    def covers(self, row: int, scores: Array, level: float) -> Array:
        """(M,) 1 where the interval of a candidate not finetuned holds its score, else 0; NaN without one."""
        ...

    def weight_intervals(self, level: float) -> dict[str, Array]:
        """By term (3, M): estimate, low and high of its weight; NaN where there is no interval."""
        ...

    @property
    def term_weights(self) -> dict[str, float]:
        """Sets of terms joined by `+`, and the probability of each."""
        ...


class Surrogate(Protocol):
    """A form of the law: fitted to the finetuned candidates, it predicts the whole pool."""

    def fit(self, features: Features, observed: Index, scores: Array) -> Prediction:
        """observed: (n,) rows of the pool that have been finetuned.  scores: (n, M) scaled."""
        ...
