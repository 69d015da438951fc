"""Leases in the database of the studies: they say which process on which machine works on what.

A lease is a row of `acsearch_leases`. Its owner renews it; when the owner dies, it lapses. It is taken, renewed and
freed by single statements, and its time is that of the database, so machines with different clocks agree on when it
lapsed. A job may be cut off from the database, lose its lease to another job and continue to run: it notices when it
renews, and must call `confirm` before it writes.

The states of a scheduler do not show that a job died: a cluster that crashed never closes its jobs, and one that does
not answer still runs them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from acsearch.errors import LeaseLostError, StudyError
from acsearch.storage.retrying import retry_connecting, retry_on_outage, seconds_since_outage
from trainers.utils.locks import announcing, who

if TYPE_CHECKING:
    import sqlalchemy

TERM = 60.0  # seconds after which a lease that is not renewed lapses
_RENEWALS = 4  # renewals in a term
_POLL_SECONDS = 0.2  # between two attempts to take a lease that another process holds

_TABLE = """
CREATE TABLE IF NOT EXISTS acsearch_leases (
    study VARCHAR(200) NOT NULL, name VARCHAR(200) NOT NULL, owner VARCHAR(40) NOT NULL, who VARCHAR(400) NOT NULL,
    expires DOUBLE PRECISION NOT NULL, PRIMARY KEY (study, name)
)
"""
_TAKE = """
INSERT INTO acsearch_leases (study, name, owner, who, expires) VALUES (:study, :name, :owner, :who, {now} + :term)
ON CONFLICT (study, name) DO UPDATE SET owner = excluded.owner, who = excluded.who, expires = excluded.expires
WHERE acsearch_leases.expires = 0 OR acsearch_leases.owner = excluded.owner
    OR (acsearch_leases.expires < {now} AND {up} + :term < {now} AND :calm > :term)
"""
_RENEW = "UPDATE acsearch_leases SET expires = {now} + :term WHERE study = :study AND name = :name AND owner = :owner"
_FREE = "UPDATE acsearch_leases SET expires = 0 WHERE study = :study AND name = :name AND owner = :owner"
_STEAL = "UPDATE acsearch_leases SET expires = 0, owner = '' WHERE study = :study AND owner <> ''"
_HELD = "SELECT who FROM acsearch_leases WHERE study = :study AND name = :name AND expires >= {now}"
# when the database started: after an outage of the database, or of the network of this process, owners must have had
# a whole term to renew their leases before another process may take them
_UP = {"postgresql": "extract(epoch from pg_postmaster_start_time())", "sqlite": "0"}
_NOW = {"postgresql": "extract(epoch from clock_timestamp())", "sqlite": "(julianday('now') - 2440587.5) * 86400.0"}


@contextmanager
def creating_tables(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Let only one process at a time create tables: two PostgreSQL sessions that create the same one may both fail."""
    import sqlalchemy

    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection, connection.begin():  # the lock goes with the transaction
        connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(hashtext('acsearch'))"))
        yield


class Leases:
    """The leases of one study; on a single machine, `trainers.utils.locks.Locks` has the same role.

    Args:
        engine: An engine for the database of the studies.
        study: Name of the study.
        term: Seconds after which a lease that is not renewed lapses.

    Raises:
        StudyError: the database is neither PostgreSQL nor SQLite.
    """

    def __init__(self, engine: sqlalchemy.Engine, study: str, term: float = TERM) -> None:
        self._engine, self._study, self._term = engine, study, term
        self._held: dict[str, str] = {}  # owner by lease; a new owner id each time it is taken
        self._lost: set[str] = set()
        self._renewing: threading.Thread | None = None
        self._guard = threading.Lock()
        if engine.dialect.name not in _NOW:
            raise StudyError(f"studies are kept in {' or '.join(_NOW)}, not in {engine.dialect.name}")
        with creating_tables(engine):
            self._run(_TABLE)
        retry_connecting(engine)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until no other process holds this lease, and hold it during the block."""
        if not self._take(name):
            with announcing(lambda: self.holder(name), f"lease {name} of study {self._study!r}"):
                while not self._take(name):
                    time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self._free(name)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold this lease during the block, if no other process holds it.

        Yields:
            Whether the lease was taken.
        """
        ours = self._take(name)
        try:
            yield ours
        finally:
            if ours:
                self._free(name)

    def held(self, name: str) -> bool:
        """Whether any process holds this lease."""
        return self.holder(name) is not None

    def steal(self) -> None:
        """Take all leases of this study away from their owners, who stop before they write again."""
        self._run(_STEAL)

    def holder(self, name: str) -> str | None:
        """Host, process and job that hold this lease; None where it is free."""
        row = self._execute(_HELD, name=name).first()
        return None if row is None else str(row[0])

    def confirm(self) -> None:
        """Ask the database whether all leases that we hold are still ours.

        Raises:
            LeaseLostError: one has gone to somebody else.
        """
        self._renew()
        self.heartbeat()

    def heartbeat(self) -> None:
        """Go by the last renewal, which a thread of its own makes; costs nothing.

        Raises:
            LeaseLostError: a lease that we held has gone to somebody else.
        """
        if self._lost:
            name = min(self._lost)
            raise LeaseLostError(
                f"study {self._study!r}: {name} was taken over by {self.holder(name) or 'another process'} while "
                f"this one could not renew its lease; stopped before anything was written"
            )

    def _take(self, name: str) -> bool:
        owner = uuid.uuid4().hex
        if not self._run(_TAKE, name=name, owner=owner, who=who(), term=self._term):
            return False
        with self._guard:
            self._held[name] = owner
            if self._renewing is None:
                self._renewing = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._renewing.start()
        return True

    def _free(self, name: str) -> None:
        self._run(_FREE, name=name, owner=self._held.pop(name))
        self._lost.discard(name)

    def _keep(self) -> None:
        while True:
            time.sleep(self._term / _RENEWALS)
            with self._guard:
                if not self._held:
                    self._renewing = None
                    return
            self._renew()  # waits while the database is away, when no other process can take a lease either

    def _renew(self) -> None:
        for name, owner in list(self._held.items()):
            renewed = self._run(_RENEW, name=name, owner=owner, term=self._term)
            if not renewed and self._held.get(name) == owner:
                self._lost.add(name)

    def _sql(self, statement: str) -> Any:
        import sqlalchemy

        kind = self._engine.dialect.name
        return sqlalchemy.text(statement.format(now=_NOW[kind], up=_UP[kind]))

    def _run(self, statement: str, **values: object) -> int:
        """Execute a statement. Returns the number of rows that it changed."""
        return int(self._execute(statement, **values).rowcount)

    @retry_on_outage  # every statement may safely be executed twice
    def _execute(self, statement: str, **values: object) -> Any:
        given = {"study": self._study, **values} if ":study" in statement else {}
        with self._engine.begin() as connection:
            given |= {"calm": seconds_since_outage()} if ":calm" in statement else {}  # now that we are connected
            result = connection.execute(self._sql(statement), given)
            return result.freeze()() if result.returns_rows else result  # rows outlive the connection
