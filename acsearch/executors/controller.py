"""A controller that works through jobs of a scheduler: what `Study.run` does here, done elsewhere.

It keeps up to so many jobs at work, each on one candidate's scores or one finetune, until the budget is spent. A piece
of work is handed over when nobody holds its lease and no job of it is queued or runs. Handing it over twice, because
schedulers lie and clusters are cut off, costs a queued job and no more: the second finds the lease held, or all done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from acsearch.errors import StudyError
from acsearch.executors.slurm import Slurm
from acsearch.study.attempts import Attempt, Submission, not_before
from acsearch.study.events import EventCallback, Finetuning, ProgressPoller, Submitted
from acsearch.study.schema import SCORE, TRIAL
from acsearch.study.stored import StoredStudy
from acsearch.study.times import now, parse, stamp
from acsearch.study.trials import Trials

POLL_SECONDS = 5.0  # between looks at how far the jobs are


class SlurmExecutor:
    """Runs a study as jobs of Slurm."""

    def __init__(self, slurm: Slurm, parallel: int) -> None:
        """
        Args:
            slurm: the cluster.
            parallel: jobs at a time.
        """
        self._slurm, self._parallel = slurm, parallel

    def run(self, stored: StoredStudy, on_event: EventCallback) -> None:
        """See `acsearch.executors.base.Executor.run`. Jobs that run go on when this raises."""
        controller, poller = (
            _Controller(stored, self._slurm, self._parallel, on_event),
            ProgressPoller(stored, on_event),
        )
        with stored.claims.claim(_controller_of(self._slurm.cluster)):  # other clusters learn that somebody is here
            while True:
                poller.poll()
                with stored.claims.exclusive("dispatch"):
                    if not controller.hand_over():
                        poller.poll()
                        return
                time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Work:
    """A piece of work. number: of its candidate or trial, as the command line takes it."""

    name: str
    number: int
    candidate: int
    representation: str

    @property
    def command(self) -> str:
        return "score" if self.name.startswith(SCORE) else "run"


class _Controller:
    """Hands the work of one study over to jobs."""

    def __init__(self, stored: StoredStudy, slurm: Slurm, parallel: int, on_event: EventCallback) -> None:
        self._stored, self._slurm, self._parallel, self._on_event = stored, slurm, parallel, on_event
        self._trials = Trials(stored, on_event)
        self._since = now()  # earlier attempts do not count: a person has asked anew

    def hand_over(self) -> bool:
        """Bring the number of jobs up to what is allowed. Returns whether anything is left to wait for."""
        unscored = self._stored.unscored
        left = self._unscored(unscored) if unscored else self._unfinished()
        ready = [work for work in left if self._is_ready(work.name)]
        room = self._parallel - (len(left) - len(ready))
        for work in ready[: max(0, room)]:
            self._submit(work)
            room -= 1
        while not unscored and room > 0 and (one := self._trials.propose()) is not None:
            self._on_event(Finetuning(one.candidate, one.representation, one.trial))
            left.append(_Work(one.work, one.trial, one.candidate, one.representation))
            self._submit(left[-1])
            room -= 1
        return bool(left)

    def _unscored(self, rows: list[int]) -> list[_Work]:
        names = self._stored.table.representations
        return [_Work(f"{SCORE}{row}", row, row, names[row]) for row in rows]

    def _unfinished(self) -> list[_Work]:
        return [
            _Work(f"{TRIAL}{record.trial}", record.trial, record.candidate, record.representation)
            for record in self._stored.snapshot().finetunes
            if record.state in ("running", "interrupted") and record.candidate is not None and record.representation
        ]

    def _submit(self, work: _Work) -> None:
        stored = self._stored
        submission = self._slurm.submit(
            f"acsearch-{stored.name}-{work.name}",
            ["trial", work.command, stored.name, str(work.number)],
            stamp(),
        )
        stored.note_submission(work.name, submission)
        self._on_event(Submitted(work.candidate, work.representation, str(submission)))

    def _is_ready(self, work: str) -> bool:
        """Whether a piece of unfinished work is to be handed over now."""
        stored = self._stored
        if stored.claims.held(work):
            return False
        submission = stored.submission(work)
        if submission is not None:
            if submission.cluster != self._slurm.cluster:
                if stored.claims.held(_controller_of(submission.cluster)):
                    return False
            elif self._slurm.alive(submission):
                return False
            else:
                self._note_silent_end(work, submission)
        attempts = stored.attempts(work)
        again = not_before(attempts, self._since)
        if again is None:
            log = f" (see {submission.log})" if submission else ""
            error = attempts[-1].error or "no last word"
            raise StudyError(f"study {stored.name!r}: {work} does not succeed: {error}{log}")
        return again <= now()

    def _note_silent_end(self, work: str, submission: Submission) -> None:
        """A job that ended before its command began is a crash too, and must not be submitted for ever."""
        attempts = self._stored.attempts(work)
        if attempts and parse(attempts[-1].began) >= parse(submission.submitted):
            return
        with self._stored.claims.claim(work) as ours:
            if ours:
                silent = Attempt(str(submission), submission.submitted)
                ended = silent.end("crashed", "the job ended before its command began")
                self._stored.note_attempts(work, [*attempts, ended])


def _controller_of(cluster: str) -> str:
    return f"controller-{cluster}"
