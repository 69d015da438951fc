"""Databases that go away and come back: who was connected waits for them, up to an hour, and repeats what was cut off.

Waiting begins with the second connection. A wrong address or password, which shows with the first, is told at once.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.exc
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from trainers.errors import first_line

_LONGEST = 3600.0  # seconds
_log = logging.getLogger("acsearch")
_failed = -math.inf  # when a database last did not answer us, by time.monotonic()
P = ParamSpec("P")
T = TypeVar("T")


def seconds_since_outage() -> float:
    """Seconds for which databases have answered whenever this process asked."""
    return time.monotonic() - _failed


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, StorageInternalError):
        error = error.__cause__ or error
    lost = sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError | sqlalchemy.exc.PendingRollbackError
    return isinstance(error, lost) or (isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated)


def _note_outage(state: tenacity.RetryCallState) -> None:
    global _failed
    _failed = time.monotonic()
    if state.attempt_number == 5:
        error = state.outcome.exception() if state.outcome else None
        _log.warning("the database does not answer; waiting for it (%s)", first_line(error) if error else "no answer")


def _retrying(matters: Callable[[BaseException], bool]) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(matters),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
        stop=tenacity.stop_after_delay(_LONGEST),
        before_sleep=_note_outage,
        reraise=True,
    )


def retry_on_outage(call: Callable[P, T]) -> Callable[P, T]:
    """The same function, called again where the database went away meanwhile; only for what may be done twice."""

    @functools.wraps(call)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        return _retrying(_is_outage)(call, *args, **kwargs)

    return again


def retry_connecting(engine: sqlalchemy.Engine) -> None:
    """From now on, new connections of this engine wait for the database."""

    @sqlalchemy.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        return _retrying(lambda error: isinstance(error, dialect.loaded_dbapi.OperationalError))(
            dialect.connect, *arguments, **options
        )


class RetryingStorage(optuna.storages.RDBStorage):
    """Optuna's storage, for databases on a server.

    All it does may be done twice: a second new trial is surplus or is taken up later, see `acsearch.study.trials`, and
    a trial that is found finished was finished by the first try.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        retry_connecting(self.engine)

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        tries = 0

        def call() -> bool:
            nonlocal tries
            tries += 1
            try:
                return super(RetryingStorage, self).set_trial_state_values(*args, **kwargs)
            except UpdateFinishedTrialError:
                if tries == 1:
                    raise
                return True

        return retry_on_outage(call)()


# what acsearch asks, and what the cache asks that Optuna puts before its storage
for _name in (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "create_new_study",
    "create_new_trial",
    "get_all_studies",
    "get_all_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "set_study_user_attr",
    "set_trial_param",
    "set_trial_user_attr",
):
    setattr(RetryingStorage, _name, retry_on_outage(getattr(optuna.storages.RDBStorage, _name)))
