"""Errors that a person can act on: each says what was given, what was expected and what to do.

The command line prints them as one line; a traceback needs `--debug`. Errors of the search itself are in
`acsearch.errors`.
"""

_LONGEST = 1000  # characters of a line


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says; the name of its class where it says nothing."""
    if isinstance(error, UnicodeError):  # it says the character, which may be of a password
        return f"{type(error).__name__}: a character that is not allowed there"
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def printable(text: str) -> str:
    """The same text with everything that could steer a terminal shown as its escape; line ends stay.

    That is control characters, and what is invisible or turns the direction of writing.
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode("ascii") for one in text
    )


class AcsearchError(Exception):
    """Base of every error that acsearch raises on purpose."""

    @property
    def line(self) -> str:
        """The message as one line for a terminal: cut where it is long, and nothing in it steers the terminal."""
        text = printable(" ".join(str(self).split()))
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class ConfigError(AcsearchError):
    """A study file, a prior or a command's arguments cannot be used as they stand."""


class SpaceError(AcsearchError):
    """A representation's name cannot be read, or names something that does not exist."""


class DataError(AcsearchError):
    """A manifest, an image or a set of image pairs cannot be used as it stands."""


class TrainingError(AcsearchError):
    """A model cannot be trained or evaluated: its parts do not fit, or a checkpoint cannot be used."""


class CandidateError(TrainingError):
    """This candidate cannot be trained as it stands, however often it is tried: its loss diverged, or memory lacks."""


class CrashedError(TrainingError):
    """Training ended for no reason that it knew: a node, a driver or a network that failed. It may work next time."""


class LockError(AcsearchError):
    """A lock cannot be taken: in the place of its file is something else, or a file that we may not write."""


class PreemptedError(AcsearchError):
    """We were asked to stop and did, with all that was done committed; the same command goes on."""


class WeightsError(AcsearchError):
    """Pretrained weights cannot be used. The message goes on from their name: "come with an adapter ..."."""


class StoreError(AcsearchError):
    """The work store cannot be used: its address, its bucket, or what we may do there."""


class EvaluationError(AcsearchError):
    """A model cannot be evaluated: its benchmark, its data, or lmms-eval says why."""
