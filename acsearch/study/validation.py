"""What a study's storage holds may have been damaged, or written by something else: checked where it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from acsearch.errors import StudyError
from acsearch.study.snapshot import Snapshot
from trainers.errors import first_line

# what text, keys and numbers of other kinds lead to, here and in Optuna, which asserts some of what it finds
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError)


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
    except (*_UNREADABLE, sqlalchemy.exc.SQLAlchemyError, OptunaError) as error:
        raise StudyError(
            f"{what} cannot be read as acsearch wrote it: {type(error).__name__}: {first_line(error)}"
        ) from error


def check(snapshot: Snapshot) -> Snapshot:
    """The same snapshot.

    Raises:
        StudyError: it has numbers that no study of these candidates can have.
    """
    table, name = snapshot.table, snapshot.name
    candidates, wanted = len(table.representations), set(table.benchmarks)
    if not 1 <= snapshot.budget <= candidates or snapshot.objective not in ("mean", *table.benchmarks):
        raise StudyError(f"study {name!r}: damaged: budget {snapshot.budget}, objective {snapshot.objective!r}")
    if not isinstance(snapshot.seed, int) or snapshot.seed < 0:
        raise StudyError(f"study {name!r}: damaged: its seed is {snapshot.seed!r}")
    for record in snapshot.finished:
        where = f"study {name!r}: damaged: finetune {record.trial + 1}"
        if record.candidate is None or not 0 <= record.candidate < candidates:
            raise StudyError(f"{where} is of candidate {record.candidate}, of {candidates}")
        if table.representations[record.candidate] != record.representation:
            raise StudyError(f"{where} is of {record.representation!r}, its candidate is another")
        numbers = [*record.points.values(), math.nan if record.objective is None else record.objective]
        if set(record.points) != wanted or not all(map(math.isfinite, numbers)):
            raise StudyError(f"{where} has not one finite score for each of {', '.join(table.benchmarks)}")
    return snapshot
