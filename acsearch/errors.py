"""Errors that a user can act on: each says what was given, what was expected and what to do.

The command line prints them as one line; `--debug` also shows the traceback.
"""

from trainers.errors import AcsearchError


class TableError(AcsearchError):
    """A recorded table, or the metadata beside it, cannot be used as it stands."""


class DefinitionError(AcsearchError):
    """Scores of different definitions would be mixed in one fit."""


class StudyError(AcsearchError):
    """A study is missing, exists already, or its storage cannot be used."""


class LeaseLostError(StudyError):
    """Another process has taken over the work that this process held a lease on."""


class PoolExhausted(AcsearchError):
    """Every candidate of the pool has been proposed already."""


class BundleError(AcsearchError):
    """A bundle cannot be written, is damaged or of another version, or contradicts the study that exists here."""
