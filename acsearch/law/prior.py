"""Priors of the Bayesian law are data: numbers, where they come from, and the definitions they belong to.

A prior learnt with one definition of A says nothing about another (cosine to CLIP and caption log-likelihood are only
weakly related), so each lists the definitions that it may be used with; `any` marks one that holds no such knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from acsearch.errors import DefinitionError
from acsearch.tables.table import TableMetadata

ANY = "any"


@dataclass(frozen=True)
class Prior:
    """Prior of `acsearch.law.bayes.HierarchicalLaw`, in units of a benchmark's own scale.

    mean, sd: of the shared weight of each term of `acsearch.law.least_squares.FULL`.
    term_sets: sets of terms and their prior probability; the data weigh them.
    sharing, misfit, correlation: the grid of hyper-parameters, all combinations equally likely before the data.
    noise: sd of run-to-run noise.  shape, rate: of the inverse gamma on the common variance.
    scale_median, scale_spread: log-normal prior of a benchmark's scale, as a part of floor to ceiling.
    """

    name: str
    provenance: str
    alignment: tuple[str, ...]
    correspondence: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    term_sets: tuple[tuple[tuple[str, ...], float], ...]
    sharing: tuple[float, ...]
    misfit: tuple[float, ...]
    correlation: tuple[float, ...]
    noise: float
    shape: float
    rate: float
    scale_median: float
    scale_spread: float

    def check(self, metadata: TableMetadata) -> None:
        """Raises DefinitionError when the prior was learnt with other definitions than the table's."""
        for what, allowed, given in (
            ("A", self.alignment, metadata.alignment),
            ("C", self.correspondence, metadata.correspondence),
        ):
            if ANY not in allowed and given not in allowed:
                raise DefinitionError(
                    f"prior {self.name!r} belongs to {what} as {' or '.join(allowed)}, but the table's is {given}: "
                    f"scores of different definitions never share a fit; use --prior weak"
                )
