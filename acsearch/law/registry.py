"""The forms of the law by name. A new one is a file with its class, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from acsearch.law.bayes import HierarchicalLaw
from acsearch.law.features import FULL, WITHOUT_C, Surrogate, parse_terms
from acsearch.law.least_squares import PublishedLaw
from acsearch.law.prior import Prior
from acsearch.tables.table import Table
from trainers.errors import ConfigError


def _bayes(table: Table, prior: Prior, terms: str) -> Surrogate:
    if terms:
        raise ConfigError("--terms belongs to --surrogate published; the Bayesian law weighs sets of terms by the data")
    prior.check(table.metadata)
    return HierarchicalLaw(prior)


def _published(table: Table, prior: Prior, terms: str) -> Surrogate:
    return PublishedLaw(parse_terms(terms) if terms else FULL if table.has_correspondence else WITHOUT_C)


SURROGATES: dict[str, Callable[[Table, Prior, str], Surrogate]] = {"bayes": _bayes, "published": _published}


def make_surrogate(name: str, table: Table, prior: Prior, terms: str = "") -> Surrogate:
    """A form of the law for a table. terms: as in `parse_terms`, or empty. Raises ConfigError, DefinitionError."""
    if name not in SURROGATES:
        raise ConfigError(f"--surrogate {name!r}: choose one of {', '.join(SURROGATES)}")
    return SURROGATES[name](table, prior, terms)
