"""Who works on what in a study."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from acsearch.errors import StudyError
from trainers.utils.locks import Locks


class Claims(Protocol):
    """What says who works on what."""

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Wait until nobody else works on this, and hold it."""
        ...

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Hold this if nobody else does; yields whether it is ours."""
        ...

    def held(self, name: str) -> bool:
        """Whether somebody works on this."""
        ...

    def holder(self, name: str) -> str | None:
        """Host, process and job of whoever works on this; None where nobody does."""
        ...

    def steal(self) -> None:
        """Take everything from whoever works on the study.

        Raises:
            StudyError: that cannot be done here.
        """
        ...

    def heartbeat(self) -> None:
        """Notice that something that we held has been taken over, by what is known here; free.

        Raises:
            LeaseLostError: it has been taken over.
        """
        ...

    def confirm(self) -> None:
        """Make sure that all that we hold is still ours, before something is written.

        Raises:
            LeaseLostError: something has been taken over.
        """
        ...


class FileClaims(Locks):
    """Claims on one machine: file locks beside the study's SQLite storage, where every controller finds the same ones.

    Studies in a database server, which several machines may work on, have `acsearch.storage.leases.Leases`.
    """

    def steal(self) -> None:
        raise StudyError("--steal: on one machine, locks go with their process; end it, and its work can be taken up")

    def heartbeat(self) -> None:
        """A lock is ours as long as we live."""

    def confirm(self) -> None:
        """A lock is ours as long as we live."""
