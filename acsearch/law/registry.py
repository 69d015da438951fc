"""The forms of the law by name. A new form is a file with its class, and one line in `SURROGATES`."""

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
    """Make a form of the law for a table.

    Args:
        name: A key of `SURROGATES`.
        table: The table that it will be fitted to.
        prior: The prior of the Bayesian law.
        terms: The terms of the published law, as in `parse_terms`; empty for all that the table allows.

    Raises:
        ConfigError: the name or a term is unknown, or terms were given to the Bayesian law.
        DefinitionError: the prior belongs to other definitions of A or C than the table's.
    """
    if name not in SURROGATES:
        raise ConfigError(f"--surrogate {name!r}: choose one of {', '.join(SURROGATES)}")
    return SURROGATES[name](table, prior, terms)
