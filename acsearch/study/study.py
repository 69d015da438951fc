"""The walk of each candidate through a study.

    score      measure its A and C
    propose    the law's posterior says which candidate to finetune next; see `acsearch.study.trials`
    finetune   stage 2 and evaluation
    tell       its scores go into the storage, and the law learns from them

Optuna's storage is the truth. Everything else (the MLflow record, the report) is derived from a `Snapshot` of it and
can be made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from acsearch.errors import LeaseLostError, StudyError
from acsearch.law.bayes import objective_weights
from acsearch.runners.base import Observation, Runner
from acsearch.storage.claims import Claims
from acsearch.study.attempts import Attempt, not_before, outcome_of
from acsearch.study.events import Doing, EventCallback, Finetuning, ProgressPoller, Scoring
from acsearch.study.schema import SCORE, TRIAL
from acsearch.study.stored import StoredStudy
from acsearch.study.times import now
from acsearch.study.trials import ClaimedTrial, Trials
from trainers.errors import CandidateError, CrashedError

POLL_SECONDS = 2.0  # between looks at what others finish


class Study:
    """A study that is worked on, here and now."""

    def __init__(self, stored: StoredStudy, runner: Runner, on_event: EventCallback) -> None:
        """
        Args:
            stored: the study in its storage.
            runner: scores and finetunes its candidates.
            on_event: is called with everything that a person who watches wants to hear about.
        """
        self._stored, self._runner, self._on_event = stored, runner, on_event
        self._trials = Trials(stored, on_event)
        self._poller = ProgressPoller(stored, on_event)

    # -- all candidates ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Score every candidate, then spend what is left of the budget, one finetune after the other.

        What a dead controller left is taken up. Returns when every trial is finished, also those that other controllers
        work on.
        """
        self.score()
        while True:
            trial = self._trials.claim_next()
            if trial is not None:
                with trial, suppress(LeaseLostError):  # then another controller is at it
                    self._finetune(trial)
            self._poller.poll()
            if trial is None:
                if not self._trials.unfinished():
                    return
                time.sleep(POLL_SECONDS)  # others are at them; should one die, its trial is taken up

    def score(self) -> None:
        """Measure A and C of every candidate that has none yet; those that another controller is at come last."""
        claims = self._stored.claims
        for row in self._stored.unscored:
            with claims.claim(f"{SCORE}{row}") as ours:
                if ours:
                    self._score(row)
            self._poller.poll()
        for row in self._stored.unscored:
            with claims.exclusive(f"{SCORE}{row}"):
                self._score(row)
            self._poller.poll()

    # -- one candidate -------------------------------------------------------------------------------------------------

    def score_one(self, row: int, claim_timeout: float = 0.0) -> None:
        """Measure A and C of one candidate; nothing if they are known.

        Args:
            row: of the candidate.
            claim_timeout: seconds to wait for somebody who is at it.

        Raises:
            StudyError: there is no such candidate, or somebody is still at it.
        """
        names = self._stored.table.representations
        if not 0 <= row < len(names):
            raise StudyError(f"study {self._stored.name!r} has candidates 0 to {len(names) - 1}, not {row}")
        with self._claimed(f"{SCORE}{row}", claim_timeout):
            self._score(row)

    def finetune_one(self, number: int, claim_timeout: float = 0.0) -> None:
        """Finetune the candidate of one trial, whoever proposed it; nothing if that has been done.

        Args:
            number: of the trial.
            claim_timeout: seconds to wait for somebody who is at it.

        Raises:
            StudyError: there is no such trial within the budget, or somebody is still at it.
        """
        self._wait_for(f"{TRIAL}{number}", claim_timeout)
        trial = self._trials.claim(number)
        if trial is not None:
            with trial:
                self._finetune(trial)

    def _score(self, row: int) -> None:
        if row not in self._stored.unscored:  # somebody was quicker
            return
        name = self._stored.table.representations[row]
        progress = _Progress(self._stored.claims, self._on_event, row, name)

        def score() -> None:
            self._stored.note_scores(row, self._runner.score(row, progress))

        self._on_event(Scoring(row, name))
        self._retry(f"{SCORE}{row}", score, progress)

    def _finetune(self, trial: ClaimedTrial) -> None:
        progress = _Progress(self._stored.claims, self._on_event, trial.candidate, trial.representation)
        self._on_event(Finetuning(trial.candidate, trial.representation, trial.trial))  # makes its MLflow run
        run = self._stored.runs.get(f"finetune/{trial.trial}")

        def finetune() -> None:
            self._tell(trial.trial, self._runner.finetune(trial.candidate, trial.trial, run, progress))

        try:
            self._retry(trial.work, finetune, progress)
        except CandidateError:
            self._stored.tell_failed(trial.trial)

    def _tell(self, number: int, observation: Observation) -> None:
        table = self._stored.table
        scaled = table.scale([observation.scores[name] for name in table.benchmarks])
        objective = float(scaled @ objective_weights(table.benchmarks, self._stored.objective))
        self._stored.tell(number, observation, dict(zip(table.benchmarks, scaled.tolist(), strict=True)), objective)

    def _retry(self, work: str, attempt: Callable[[], None], progress: _Progress) -> None:
        """Attempt a claimed piece of work until an attempt ends well: another one only after a crash."""
        since = now()
        while True:
            before, this = self._stored.attempts(work), Attempt.begin()
            self._stored.note_attempts(work, [*before, this])
            try:
                attempt()
            except LeaseLostError:
                raise  # the work is somebody else's now, and so are its attempts
            except BaseException as error:
                attempts = [*before, this.end(outcome_of(error), f"{type(error).__name__}: {error}")]
                self._stored.note_attempts(work, attempts)
                again = not_before(attempts, since)
                if again is None or not isinstance(error, OSError | CrashedError):
                    raise
                progress.report(f"{error}; again at {again.astimezone():%H:%M:%S}")
                time.sleep(max(0.0, (again - now()).total_seconds()))
            else:
                self._stored.note_attempts(work, [*before, this.end("done")])
                return

    # -- claims --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _claimed(self, work: str, timeout: float) -> Iterator[None]:
        self._wait_for(work, timeout)
        with self._stored.claims.claim(work) as ours:
            if not ours:
                owner = self._stored.claims.holder(work) or "somebody"
                raise StudyError(f"study {self._stored.name!r}: {work} is worked on by {owner}")
            yield

    def _wait_for(self, work: str, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self._stored.claims.held(work) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Progress:
    """What a runner says while it works on a candidate; see `acsearch.runners.base.Progress`."""

    claims: Claims
    on_event: EventCallback
    candidate: int
    representation: str

    def report(self, text: str) -> None:
        self.on_event(Doing(self.candidate, self.representation, text))

    def heartbeat(self) -> None:
        self.claims.heartbeat()
