"""What an executor is: where the work of a study is done."""

from __future__ import annotations

from typing import Protocol

from acsearch.study.events import EventCallback
from acsearch.study.stored import StoredStudy


class Executor(Protocol):
    """Runs a study to the end of its budget."""

    def run(self, stored: StoredStudy, on_event: EventCallback) -> None:
        """Return when every candidate is scored and every trial finished, also those that others work on.

        Args:
            stored: the study in its storage.
            on_event: is called with what happens, wherever it happens.

        Raises:
            StudyError: some work does not succeed by itself; the message has what was said last.
        """
        ...
