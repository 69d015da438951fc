"""Priors of the Bayesian law: numbers, where they come from, and the definitions of A and C that they belong to.

A prior that was learnt with one definition of A says nothing about another (cosine to CLIP and caption log-likelihood
are only weakly related). So each prior lists the definitions that it may be used with; `any` stands for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from acsearch.errors import DefinitionError
from acsearch.tables.table import TableMetadata

ANY = "any"


@dataclass(frozen=True)
class Prior:
    """Prior of `acsearch.law.bayes.HierarchicalLaw`, in units of a benchmark's own scale.

    Attributes:
        name: Name of the prior.
        provenance: Where its numbers come from.
        alignment: Definitions of A that it may be used with; `any` for all.
        correspondence: Definitions of C that it may be used with; `any` for all.
        mean: Mean of the shared weight of each term of `acsearch.law.features.FULL`.
        sd: Standard deviation of the same weights.
        term_sets: Sets of terms with their prior probability.
        sharing: Grid of w, the share of the weights' variance that all benchmarks have in common.
        misfit: Grid of v, the standard deviation of what the law misses about a candidate.
        correlation: Grid of r, the correlation of the misfit between benchmarks.
        noise: Standard deviation from one training run to another.
        shape: Shape of the inverse gamma prior of the common variance.
        rate: Rate of the same.
        scale_median: Median of the log-normal prior of a benchmark's scale, as a part of floor to ceiling.
        scale_spread: Standard deviation of the logarithm of the scale.

    All combinations of the three grids are equally likely before the data.
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
        """Check that the prior may be used with the definitions of a table.

        Raises:
            DefinitionError: the prior was learnt with other definitions of A or C.
        """
        for what, allowed, given in (
            ("A", self.alignment, metadata.alignment),
            ("C", self.correspondence, metadata.correspondence),
        ):
            if ANY not in allowed and given not in allowed:
                raise DefinitionError(
                    f"prior {self.name!r} belongs to {what} as {' or '.join(allowed)}, but the table's is {given}: "
                    f"scores of different definitions never share a fit; use the prior weak"
                )
