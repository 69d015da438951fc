"""Attempts, by hand: what is kept of them, when the next one may begin, and the end of a job's log."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acsearch.study.attempts import Attempt, Submission, not_before

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def crashed(*minutes: float) -> list[Attempt]:
    """Attempts that began so many minutes after noon and crashed ten seconds later."""
    began = [NOON + timedelta(minutes=one) for one in minutes]
    return [
        Attempt("here", one.isoformat(), (one + timedelta(seconds=10)).isoformat(), "crashed", "a node")
        for one in began
    ]


def test_pauses_are_half_a_minute_that_doubles_and_the_fifth_crash_is_the_last() -> None:
    for count, seconds in ((1, 30), (2, 60), (3, 120), (4, 240)):
        last = NOON + timedelta(minutes=count - 1, seconds=10)
        assert not_before(crashed(*range(count)), NOON) == last + timedelta(seconds=seconds)
    assert not_before(crashed(*range(5)), NOON) is None
    assert not_before(crashed(*range(6)), NOON) is None


def test_an_attempt_of_the_same_second_as_the_request_counts() -> None:
    """Attempts are kept to the second, requests to the microsecond."""
    asked = NOON + timedelta(microseconds=700_000)
    assert not_before(crashed(0), asked) == NOON + timedelta(seconds=40)
    assert not_before(crashed(0), NOON + timedelta(seconds=1)) == NOON + timedelta(seconds=1)


def test_only_the_last_attempt_decides_whether_a_person_is_needed() -> None:
    refused = [Attempt("here", NOON.isoformat(), NOON.isoformat(), "refused", "no image")]
    assert not_before([*refused, *crashed(1)], NOON) == NOON + timedelta(minutes=1, seconds=40)


def test_an_attempt_begins_and_ends_now_to_the_second() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    begun = Attempt.begin()
    ended = begun.end("crashed", "no answer from postgresql://me:secret@host/db")
    assert before <= datetime.fromisoformat(begun.began) <= datetime.now(UTC)
    assert (begun.ended, begun.outcome, begun.error) == (None, None, None)
    assert ended.ended is not None
    assert begun.began <= ended.ended <= datetime.now(UTC).isoformat()
    assert (ended.who, ended.began, ended.outcome) == (begun.who, begun.began, "crashed")
    assert len(begun.began) == len("2026-01-01T12:00:00+00:00")
    assert ended.error is not None
    assert "secret" not in ended.error
    assert begun.end("done").error is None
    with pytest.raises(FrozenInstanceError):
        begun.outcome = "done"  # type: ignore[misc]


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    submission = Submission("slurm", "17", str(log), NOON.isoformat())
    assert str(submission) == "job 17 of slurm"
    assert submission.last_lines(tmp_path) == []  # not readable from here
    log.write_bytes(b"\xff0\n" + b"".join(b"%d\n" % line for line in range(1, 9)))
    assert submission.last_lines(tmp_path) == ["4", "5", "6", "7", "8"]
    assert submission.last_lines(tmp_path, 2) == ["7", "8"]
    assert submission.last_lines(tmp_path, 20)[0].endswith("0")
    with pytest.raises(FrozenInstanceError):
        submission.job = "18"  # type: ignore[misc]
