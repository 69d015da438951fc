"""A controller that works through jobs of a scheduler: what `Study.run` does here, done elsewhere.

It keeps up to so many jobs at work, each on one candidate's scores or one finetune, until the budget is spent. A piece
of work is handed over when nobody holds its lease and no job of it is queued or runs. Handing it over twice, because
schedulers lie and clusters are cut off, costs a queued job and no more: the second finds the lease held, or all done.
"""

from __future__ import annotations

import time
from datetime import datetime

from acsearch.errors import StudyError
from acsearch.executors.slurm import Slurm
from acsearch.study.attempts import Attempt, Submission, not_before
from acsearch.study.events import Event, EventCallback, ProgressPoller
from acsearch.study.stored import SCORE, TRIAL
from acsearch.study.study import Study

POLL_SECONDS = 5.0  # seconds between looks at how far the jobs are


def dispatch(study: Study, engine: Slurm, parallel: int, watch: EventCallback) -> None:
    """Returns when every candidate is scored and every trial finished.

    Raises StudyError for work that does not succeed by itself, with what was said last; jobs that run go on.
    """
    since, poller = datetime.now(), ProgressPoller(study, watch)
    with study.claims.claim(_controller(engine.cluster)):  # tells other clusters that queued jobs here are looked after
        while True:
            poller.poll()
            with study.claims.exclusive("dispatch"):
                if not _hand_over(study, engine, parallel, watch, since):
                    poller.poll()
                    return
            time.sleep(POLL_SECONDS)


def _hand_over(study: Study, engine: Slurm, parallel: int, watch: EventCallback, since: datetime) -> bool:
    """Bring the number of jobs up to what is allowed. Returns whether anything is left to wait for."""
    names = study.snapshot().table.representations
    unscored = study.unscored
    if unscored:
        left = [(f"{SCORE}{row}", row, names[row]) for row in unscored]
    else:
        left = [
            (f"{TRIAL}{record.trial}", record.trial, record.representation)
            for record in study.snapshot().finetunes
            if record.state in ("running", "interrupted") and record.representation
        ]
    ready = [one for one in left if _is_ready(study, engine, one[0], since)]
    room = parallel - (len(left) - len(ready))
    for work, number, name in ready[: max(0, room)]:
        _submit(study, engine, work, number, name, watch)
        room -= 1
    while not unscored and room > 0 and (trial := study.propose(watch)) is not None:
        name = next(record.representation for record in study.snapshot().finetunes if record.trial == trial)
        watch(Event("finetuning", trial, name))
        _submit(study, engine, f"{TRIAL}{trial}", trial, name, watch)
        room -= 1
        left.append((f"{TRIAL}{trial}", trial, name))
    return bool(left)


def _submit(study: Study, engine: Slurm, work: str, number: int, name: str, watch: EventCallback) -> None:
    command = ["trial", "score" if work.startswith(SCORE) else "run", study.name, str(number)]
    submission = engine.submit(f"acsearch-{study.name}-{work}", command, datetime.now().isoformat(timespec="seconds"))
    study.note_submission(work, submission)
    watch(Event("submitted", number, name, text=str(submission)))


def _is_ready(study: Study, engine: Slurm, work: str, since: datetime) -> bool:
    """Whether a piece of unfinished work is to be handed over now."""
    if study.claims.held(work):
        return False
    submission = study.submission(work)
    if submission is not None:
        if submission.cluster != engine.cluster:
            if study.claims.held(_controller(submission.cluster)):
                return False
        elif engine.alive(submission):
            return False
        else:
            _note_silent_end(study, work, submission)
    attempts = study.attempts(work)
    again = not_before(attempts, since)
    if again is None:
        log = f" (see {submission.log})" if submission else ""
        raise StudyError(f"study {study.name!r}: {work} does not succeed: {attempts[-1].error or 'no last word'}{log}")
    return again <= datetime.now()


def _note_silent_end(study: Study, work: str, submission: Submission) -> None:
    """A job that ended before its command began is a crash too, and must not be submitted for ever."""
    attempts = study.attempts(work)
    if attempts and attempts[-1].began >= submission.submitted:
        return
    with study.claims.claim(work) as ours:
        if ours:
            silent = Attempt(str(submission), submission.submitted)
            study.note_attempts(work, [*attempts, silent.end("crashed", "the job ended before its command began")])


def _controller(cluster: str) -> str:
    return f"controller-{cluster}"
