"""Errors that a person can act on: each says what was given, what was expected and what to do.

The command line prints them as one line; a traceback needs `--debug`.
"""

from trainers.errors import AcsearchError


class TableError(AcsearchError):
    """A recorded table, or the metadata beside it, cannot be used as it stands."""


class DefinitionError(AcsearchError):
    """Scores of different definitions were about to be mixed."""


class StudyError(AcsearchError):
    """A study is missing, exists already, or its storage does not belong to it."""


class LeaseLostError(StudyError):
    """Somebody else has taken over what we were working on."""


class PoolExhausted(AcsearchError):
    """Every candidate has been proposed already."""


class BundleError(AcsearchError):
    """A bundle cannot be written, or is damaged, foreign or of another version, or does not fit what is here."""
