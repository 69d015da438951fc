"""What a study's storage holds may have been damaged, or written by something else: checked where it is read.

`acsearch.study.schema` says which types there are. Here is checked what depends on the table: that candidates and
benchmarks are those of the table, and that the objective and the scaled scores of a trial follow from its points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from acsearch.errors import StudyError
from acsearch.law.bayes import objective_weights
from acsearch.law.features import Array
from acsearch.study.schema import StudyContent, TrialContent, first_error
from acsearch.tables.table import Table
from trainers.errors import first_line
from trainers.utils.strict_yaml import abbreviate

# what text, keys and numbers of other kinds lead to, here and in Optuna, which asserts some of what it finds
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
_ROUNDING = 1e-9  # of scaled scores, which other machines sum up in another order


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around what reads a storage.

    Args:
        what: is read, for the message.

    Raises:
        StudyError: the storage does not hold what acsearch writes.
    """
    import sqlalchemy.exc
    from optuna.exceptions import OptunaError

    try:
        yield
    except ValidationError as error:
        raise StudyError(f"{what} cannot be read as acsearch wrote it: {first_error(error)}") from error
    except (*_UNREADABLE, sqlalchemy.exc.SQLAlchemyError, OptunaError) as error:
        raise StudyError(
            f"{what} cannot be read as acsearch wrote it: {type(error).__name__}: {first_line(error)}"
        ) from error


def check(content: StudyContent, table: Table) -> None:
    """Check that a study can be one of these candidates.

    Args:
        content: The study, which was started.
        table: Its candidates.

    Raises:
        ValueError: it cannot; the message names the trial or the attribute.
    """
    candidates, about = len(table.representations), content.about
    assert about is not None
    if not 1 <= content.budget <= candidates:
        raise ValueError(f"a budget of {content.budget} finetunes of {candidates}")
    if about.objective not in ("mean", *table.benchmarks):
        raise ValueError(f"the objective {abbreviate(about.objective)} is none of its benchmarks")
    for row, scores in content.scores.items():
        if row >= candidates or len(scores.alignment) != len(table.benchmarks):
            raise ValueError(f"scores of a candidate {row} on {len(scores.alignment)} benchmarks")
    weights = objective_weights(table.benchmarks, about.objective)
    for trial in content.trials:
        _check_candidate(trial, table)
        if trial.state == "COMPLETE":
            _check_result(trial, table, weights)


def _check_candidate(trial: TrialContent, table: Table) -> None:
    given, row = trial.attributes.representation, trial.candidate
    if row is None:
        if given is not None:
            raise ValueError(f"trial {trial.number}: no candidate, where its representation is {abbreviate(given)}")
        return
    if trial.pool != len(table.representations) and given is None and trial.state != "COMPLETE":
        return  # somebody else asked for it, and it is not run
    known = table.representations[row] if trial.pool == len(table.representations) else None
    if known is None or given not in ((known,) if trial.state == "COMPLETE" else (known, None)):
        raise ValueError(f"trial {trial.number}: {abbreviate(given)} is not candidate {row}, {known!r}")


def _check_result(trial: TrialContent, table: Table, weights: Array) -> None:
    """Raise ValueError unless all that a finished trial has follows from its points."""
    where, found = f"trial {trial.number}", trial.attributes
    points, scores, errors = found.points or {}, found.scores or {}, found.errors
    for what, values in (("points", points), ("scores", scores)):
        if {*values} != {*table.benchmarks}:
            raise ValueError(f"{where}: {what} are not those of {', '.join(table.benchmarks)}")
    if found.seconds is None or errors is None or not {*errors} <= {*table.benchmarks}:
        raise ValueError(f"{where}: no seconds, or errors that are not those of {', '.join(table.benchmarks)}")
    scaled = table.scale([points[name] for name in table.benchmarks])
    for name, expected in zip(table.benchmarks, scaled, strict=True):
        if not _same(scores[name], expected):
            raise ValueError(f"{where}: its score on {name} is {scores[name]:g}, and {expected:g} by its points")
    if trial.value is None or not _same(trial.value, objective := float(scaled @ weights)):
        raise ValueError(f"{where}: its value is {trial.value:g}, and {objective:g} by its points")


def _same(given: float, expected: float) -> bool:
    return math.isclose(given, expected, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
