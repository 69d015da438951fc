"""Many changes of a storage as one: all of them are there afterwards, or none, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.storages import RDBStorage

from acsearch.errors import StudyError
from trainers.errors import first_line


@contextmanager
def one_transaction(storage: RDBStorage) -> Iterator[RDBStorage]:
    """One transaction of the database: committed when the block ends, rolled back when it raises or the process dies.

    Args:
        storage: Where to write.

    Yields:
        The same storage over a single connection. What is written through it, others see when the block has ended.

    Raises:
        StudyError: the database refused a change, or went away: nothing was written.
    """
    import sqlalchemy.exc
    from sqlalchemy.orm import scoped_session, sessionmaker

    refused = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
    try:
        with storage.engine.connect() as connection, connection.begin() as transaction:
            # not its subclass that repeats what was cut off, because what came before in the transaction would be lost
            inner = object.__new__(RDBStorage)
            inner.__dict__ |= vars(storage)
            # Optuna commits after each change, which only hands it to the transaction; a rollback ends the transaction
            inner.scoped_session = scoped_session(sessionmaker(connection, join_transaction_mode="rollback_only"))
            yield inner
            if not transaction.is_active:
                raise StudyError("--storage: refused a change by somebody else at the same time; nothing was written")
    except refused as error:
        said = first_line(error.__cause__ or error)
        raise StudyError(f"--storage: cannot be written: {said}; nothing was written") from error
