"""Attempts at a piece of work: who tried, how it ended, and whether to try again by itself.

done       its result is in the storage
preempted  it stopped in order because it was asked to: again, at once
failed     this candidate cannot be trained (memory, a loss that diverged): never again
refused    something must be put right first, bad data for instance: not before a person says so
crashed    anything else, such as a node, a driver or a network that failed; an attempt without an end, whose owner is
           gone, counts as one: again, each time after a longer pause, and not for ever
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path

from acsearch.redaction import without_secrets
from acsearch.study.times import parse, stamp
from trainers.errors import AcsearchError, CandidateError, CrashedError, PreemptedError
from trainers.utils.locks import who
from trainers.utils.regular_files import open_regular

MOST = 5  # crashes in a row
_TAIL = 1 << 16  # bytes of a log that are looked at
PAUSE = timedelta(seconds=30)  # after the first crash; it doubles with each


@dataclass(frozen=True)
class Attempt:
    """One try at a piece of work.

    Attributes:
        who: host, process and job that tried.
        began: ISO date and time, in UTC; earlier versions kept local times without a zone.
        ended: the same; None until it has ended, and for ever where it was killed.
        outcome: how it ended; None as long as `ended` is.
        error: what went wrong; None where nothing did, or nothing is known.
    """

    who: str
    began: str
    ended: str | None = None
    outcome: str | None = None
    error: str | None = None

    @classmethod
    def begin(cls) -> Attempt:
        """An attempt of this process that begins now."""
        return cls(who(), stamp())

    def end(self, outcome: str, error: str | None = None) -> Attempt:
        """The same attempt, ended now. Secrets are taken out of the error."""
        said = None if error is None else without_secrets(error)  # it is kept with the study, and moves with it
        return replace(self, ended=stamp(), outcome=outcome, error=said)


@dataclass(frozen=True)
class Submission:
    """A job that a piece of work was handed over to.

    Attributes:
        cluster: name of the cluster.
        job: its id there.
        log: path of what it prints, on that cluster.
        submitted: ISO date and time, in UTC.
    """

    cluster: str
    job: str
    log: str
    submitted: str

    def __str__(self) -> str:
        return f"job {self.job} of {self.cluster}"

    def last_lines(self, folder: Path, count: int = 5) -> list[str]:
        """The end of the job's log; empty where it cannot be read from here, or lies elsewhere.

        Args:
            folder: of the logs of jobs. A storage may name any file, and only those below this folder are read.
            count: how many lines.
        """
        try:
            log = Path(self.log).resolve(strict=True)
            if not log.is_relative_to(folder.resolve()):
                return []
            with open_regular(log) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode("utf-8", "replace").splitlines()[-count:]
        except (OSError, ValueError, RuntimeError):  # no path, or links in a circle
            return []


def outcome_of(error: BaseException) -> str:
    """How an attempt ended that raised this error."""
    if isinstance(error, PreemptedError | KeyboardInterrupt):
        return "preempted"
    if isinstance(error, CandidateError):
        return "failed"
    return "refused" if isinstance(error, AcsearchError) and not isinstance(error, CrashedError) else "crashed"


def not_before(attempts: Sequence[Attempt], since: datetime) -> datetime | None:
    """When to try again.

    Args:
        attempts: at the piece of work so far, oldest first.
        since: when a person last asked for it, with time zone; earlier attempts do not count.

    Returns:
        A time with time zone, in the past for at once; None where only a person can have it tried again.
    """
    recent = [attempt for attempt in attempts if parse(attempt.began) >= since.replace(microsecond=0)]
    if not recent:
        return since
    if recent[-1].outcome in ("failed", "refused"):
        return None
    crashed = list(takewhile(lambda attempt: attempt.outcome in (None, "crashed"), reversed(recent)))
    if len(crashed) >= MOST:
        return None
    last = parse(recent[-1].ended or recent[-1].began)
    return last + PAUSE * 2 ** (len(crashed) - 1) if crashed else last
