"""Databases on a server, before anything else is asked of them: they answer within seconds, or one line says why not.

Who was connected once waits for a database that went away; see `acsearch.storage.retrying`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from acsearch.errors import StudyError
from acsearch.redaction import redact, without_secrets
from trainers.errors import first_line

UNCLEAR = "not a URL that can be read: percent-encode what is special in the user and the password (@ is %40, / is %2F)"
LIMIT = 10.0  # seconds in which a server has to answer for the first time


def options(url: str) -> dict[str, Any]:
    """Options of an engine by which it notices a lost server, also where the network drops packets silently."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if re.match(r"postgresql(\+psycopg2?)?:", url):  # their drivers take libpq's options; without these it takes hours
        alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
        options["connect_args"] = {"connect_timeout": 10} | alive
    return options


def check_answers(url: str, option: str) -> None:
    """Connect to a database for the first time.

    Args:
        url: Its SQLAlchemy URL.
        option: The option that gave the URL, for messages.

    Raises:
        StudyError: it cannot be used, or does not answer.
    """
    import sqlalchemy.exc  # here, because `acsearch --help` must be quick

    check_clear(url, option)

    def connect() -> None:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options(url))
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select 1"))

    try:
        within(LIMIT, connect)
    except TimeoutError as error:
        advice = "see whether it is up, and whether a firewall is between"
        raise StudyError(f"{option} {redact(url)}: no answer within {LIMIT:g} s; {advice}") from error
    except ImportError as error:
        raise StudyError(f"{option} {redact(url)}: its driver is missing: {error}") from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        said = without_secrets(first_line(getattr(error, "orig", None) or error))
        raise StudyError(f"{option} {redact(url)}: cannot be used: {said}") from error


def check_clear(url: str, option: str) -> None:
    """Refuse a URL of a database before a driver quotes what it takes for its host or port, and is of its password.

    Raises:
        StudyError: it is not clear which part is which.
    """
    import sqlalchemy.exc  # here, because `acsearch --help` must be quick

    try:
        is_clear = "@" not in (sqlalchemy.make_url(url).host or "")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        is_clear = False
    if not is_clear:
        raise StudyError(f"{option} {redact(url)}: {UNCLEAR}")


def within(seconds: float, call: Callable[[], None]) -> None:
    """Call a function, and go on without it where it takes too long.

    A thread is left behind then, because no driver can be told to give up at every place where a server may be silent.

    Raises:
        TimeoutError: it takes longer.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]
