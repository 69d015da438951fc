"""Who works on what, on any machine: leases in the study's own database, which their owner renews and death lets lapse.

A lease is a row of `acsearch_leases`. It is taken, renewed and freed by single statements, and its time is the
database's, so machines whose clocks differ agree on when it lapsed. A job may be cut off from the database, lose its
lease to another and live on: it learns so when it renews, and `confirm` tells it before it writes.

Scheduler states prove no death: a cluster that died never closes its jobs, one that does not answer still runs them.
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
from trainers.utils.locks import who

if TYPE_CHECKING:
    import sqlalchemy

TERM = 60.0  # seconds after which a lease that nobody renews is free
_RENEWALS = 4  # in a term
_POLL = 0.2  # seconds between two tries of who waits

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
# when the database came up: whoever holds a lease must have had the time to renew it after an outage, also after one
# of the network, from which we too have come back
_UP = {"postgresql": "extract(epoch from pg_postmaster_start_time())", "sqlite": "0"}
_NOW = {"postgresql": "extract(epoch from clock_timestamp())", "sqlite": "(julianday('now') - 2440587.5) * 86400.0"}


@contextmanager
def alone(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Let nobody else make tables meanwhile: two PostgreSQL sessions that make the same one at once both may fail."""
    import sqlalchemy

    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection, connection.begin():  # the lock goes with the transaction
        connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(hashtext('acsearch'))"))
        yield


class Leases:
    """The leases of one study; what `trainers.utils.locks.Locks` is on one machine."""

    def __init__(self, engine: sqlalchemy.Engine, study: str, term: float = TERM) -> None:
        self._engine, self._study, self._term = engine, study, term
        self._held: dict[str, str] = {}  # lease: its owner, a new one each time it is taken
        self._lost: set[str] = set()
        self._renewing: threading.Thread | None = None
        self._guard = threading.Lock()
        if engine.dialect.name not in _NOW:
            raise StudyError(f"studies are kept in {' or '.join(_NOW)}, not in {engine.dialect.name}")
        with alone(engine):
            self._run(_TABLE)
        retry_connecting(engine)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until nobody else holds this lease, and hold it."""
        while not self._take(name):
            time.sleep(_POLL)
        try:
            yield
        finally:
            self._free(name)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take this lease if nobody holds it; yields whether it is ours."""
        ours = self._take(name)
        try:
            yield ours
        finally:
            if ours:
                self._free(name)

    def held(self, name: str) -> bool:
        """Whether somebody holds this lease."""
        return self.holder(name) is not None

    def steal(self) -> None:
        """Take everything from whoever works on this study; they stop before they write again."""
        self._run(_STEAL)

    def holder(self, name: str) -> str | None:
        """Host, process and job of who holds this lease; None where nobody does."""
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
                f"study {self._study!r}: {name} was taken over by {self.holder(name) or 'somebody'} while we could not "
                f"be reached; stopped before anything was written"
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
            self._renew()  # while the database is away, nobody takes what is ours

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
        """How many rows it changed."""
        return int(self._execute(statement, **values).rowcount)

    @retry_on_outage  # whatever is done here may be done twice
    def _execute(self, statement: str, **values: object) -> Any:
        given = {"study": self._study, **values} if ":study" in statement else {}
        with self._engine.begin() as connection:
            given |= {"calm": seconds_since_outage()} if ":calm" in statement else {}  # now that we are connected
            result = connection.execute(self._sql(statement), given)
            return result.freeze()() if result.returns_rows else result  # rows outlive the connection
