"""A study: from candidates to a recommendation, one finetune at a time.

    start      write down what is searched, once
    run        score every candidate: its A and C
               next trial -> propose -> finetune -> record its scores -> tell; until the budget is spent
    snapshot   what is known now: after each finetune, what the law believed and recommended

Optuna's storage is the truth. Everything else (the MLflow record, the report) is derived from a `Snapshot` of it and
can be made again. A trial is one full finetune, and the budget is exact:

- Trials are asked for under a lock, and one whose place among the trials is beyond the budget is never started: if two
  controllers got past the lock, the lower trial number would win.
- A trial is worked on under its own lock. A trial that is running and whose lock is free belonged to a controller that
  died; the next one takes it up under the same number, so a crash costs no finetune.
- A proposal depends on (study seed, trial number) and the finished trials alone, so whoever resumes proposes the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from acsearch.config.study_file import StudyConfig
from acsearch.errors import LeaseLostError, StudyError
from acsearch.policies.registry import resolve
from acsearch.policies.sampler import PARAMETER
from acsearch.runners.base import Runner
from acsearch.storage.claims import Claims
from acsearch.study.attempts import Attempt, not_before, outcome_of
from acsearch.study.checks import check_free, check_start
from acsearch.study.events import Event, EventCallback, ProgressPoller
from acsearch.study.identity import FORMAT, digest
from acsearch.study.stored import (
    ABOUT,
    BUDGET,
    REPRESENTATION,
    SCORE,
    SURPLUS,
    TRIAL,
    StoredStudy,
    exists,
    summaries,
)
from trainers.errors import CandidateError, ConfigError, CrashedError

POLL_SECONDS = 2.0  # seconds between looks at what others finish


class Study(StoredStudy):
    """A study that is worked on. Made by `Study.start` or `Study.open`."""

    def __init__(self, storage: optuna.storages.BaseStorage, name: str, locks: Claims) -> None:
        super().__init__(storage, name, locks)
        self._awaited: set[int] = set()  # trials of others that we have told of

    # -- start and open ------------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        storage: optuna.storages.BaseStorage,
        locks: Claims,
        *,
        name: str,
        config: StudyConfig,
        budget: int,
        resume: bool = False,
    ) -> Study:
        """Write a new study down. Raises StudyError if the name is taken, else as `check_start`.

        resume: a study of this name is opened instead, as it is but for a larger budget.
        """
        file, table, prior = config.file, config.table, config.prior
        check_start(file, table, prior, budget)
        with locks.exclusive("start"):
            if resume and exists(storage, name):
                there = cls(storage, name, locks)
                there.snapshot()  # before anything is written to what cannot be gone on with
                if budget > there.budget:
                    there.raise_budget(budget)
                return there
            check_free(storage, locks, name)
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
            study.set_user_attr(BUDGET, budget)
            about = {
                "format": FORMAT,
                "title": file.title,
                "table": {"source": vars(config.source), "digest": digest(table)},
                "objective": file.objective,
                "policy": resolve(file.policy),
                "prior": {"source": file.prior, "digest": digest(prior)},
                "seed": file.seed,
                "started": datetime.now().isoformat(),
            }
            study.set_user_attr(ABOUT, about)  # last: a study without it was never started
        return cls(storage, name, locks)

    @classmethod
    def open(cls, storage: optuna.storages.BaseStorage, locks: Claims, name: str) -> Study:
        """Raises StudyError, naming the studies there are, when there is none of this name."""
        if not exists(storage, name):
            names = [summary.study_name for summary in summaries(storage)]
            there = f"there are {', '.join(names)}" if names else "the storage has none yet; acsearch study start"
            raise StudyError(f"no study {name!r}: {there}")
        return cls(storage, name, locks)

    def raise_budget(self, budget: int) -> None:
        """Allow more finetunes. Raises ConfigError for fewer than the study has, or more than there are candidates."""
        with self.claims.exclusive("ask"):
            limit = len(self._table.representations)
            if not self.budget <= budget <= limit:
                raise ConfigError(f"--budget {budget}: the study has {self.budget}; choose {self.budget} to {limit}")
            self._study.set_user_attr(BUDGET, budget)

    # -- the walk of one candidate -------------------------------------------------------------------------------------

    def run(self, finetunes: Runner, watch: EventCallback) -> None:
        """Spend what is left of the budget, one finetune after the other; taking up what a dead controller left.

        Returns when every trial is finished, also those that other controllers work on.
        """
        poller = ProgressPoller(self, watch)
        self.score(finetunes, watch, poller)
        while True:
            with self._next_trial(watch) as trial, suppress(LeaseLostError):  # then another one is at it
                if trial is not None:
                    self._finetune(trial, finetunes, watch)
            poller.poll()
            if trial is None:
                if not self.unfinished():
                    return
                time.sleep(POLL_SECONDS)  # others are at them; should one die, its trial is taken up

    def score(self, finetunes: Runner, watch: EventCallback, poller: ProgressPoller) -> None:
        """Measure A and C of every candidate that has none yet; those that another controller is at come last."""
        for wait in (False, True):
            for row in self.unscored:
                with ExitStack() as claim:
                    if wait:
                        claim.enter_context(self.claims.exclusive(f"{SCORE}{row}"))
                    elif not claim.enter_context(self.claims.claim(f"{SCORE}{row}")):
                        continue
                    self._score(row, finetunes, watch)
                poller.poll()

    def _score(self, row: int, finetunes: Runner, watch: EventCallback) -> None:
        if row in self.unscored:  # else somebody was quicker
            name = self._pool.representations[row]
            say = partial(self._say, watch, row, name)
            watch(Event("scoring", row, name))
            for attempt in self._attempts_at(f"{SCORE}{row}", say):
                with attempt:
                    self.note_scores(row, finetunes.score(row, say))

    def _finetune(self, trial: Trial, finetunes: Runner, watch: EventCallback) -> None:
        candidate = trial.suggest_int(PARAMETER, 0, len(self._table.representations) - 1)
        name = self._table.representations[candidate]
        say = partial(self._say, watch, trial.number, name)
        watch(Event("finetuning", trial.number, name))
        run = self.runs.get(f"finetune/{trial.number}")
        try:
            for attempt in self._attempts_at(f"{TRIAL}{trial.number}", say):
                with attempt:
                    self.tell(trial, finetunes.finetune(candidate, trial.number, run, say))
        except CandidateError:
            self.tell_failed(trial.number)

    def score_one(self, row: int, finetunes: Runner, watch: EventCallback, patience: float = 0.0) -> None:
        """Measure A and C of one candidate; nothing if they are known. patience, errors: as of `finetune_one`."""
        if not 0 <= row < len(self._pool.representations):
            raise StudyError(
                f"study {self.name!r} has candidates 0 to {len(self._pool.representations) - 1}, not {row}"
            )
        with self._own(f"{SCORE}{row}", patience):
            self._score(row, finetunes, watch)

    def finetune_one(self, number: int, finetunes: Runner, watch: EventCallback, patience: float = 0.0) -> None:
        """Finetune the candidate of one trial, whoever proposed it; nothing if that has been done.

        patience: seconds to wait for somebody who is at it. Raises StudyError when they still are, or when there is no
        such trial within the budget.
        """
        with self._own(f"{TRIAL}{number}", patience):
            trials = {trial.number: trial for trial in self.trials()[: self.budget] if PARAMETER in trial.params}
            if number not in trials:
                known = ", ".join(map(str, trials)) or "none yet"
                raise StudyError(f"study {self.name!r} has no trial {number}; its trials: {known}")
            if trials[number].state == TrialState.RUNNING:
                self._finetune(Trial(self._study, trials[number]._trial_id), finetunes, watch)

    @contextmanager
    def _own(self, work: str, patience: float) -> Iterator[None]:
        until = time.monotonic() + patience
        while self.claims.held(work) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        with self.claims.claim(work) as ours:
            if not ours:
                raise StudyError(
                    f"study {self.name!r}: {work} is worked on by {self.claims.holder(work) or 'somebody'}"
                )
            yield

    def _attempts_at(self, work: str, say: Callable[[str], None]) -> Iterator[AbstractContextManager[None]]:
        """Attempts at a piece of work whose lock we hold, until one ends well: another only after a crash."""
        since, going_on = datetime.now(), True

        @contextmanager
        def attempt() -> Iterator[None]:
            nonlocal going_on
            before, this = self.attempts(work), Attempt.begin()
            self.note_attempts(work, [*before, this])
            try:
                yield
            except LeaseLostError:
                raise  # it is not ours to write any more
            except BaseException as error:
                ended = this.end(outcome_of(error), f"{type(error).__name__}: {error}")
                self.note_attempts(work, [*before, ended])
                again = not_before([*before, ended], since)
                if again is None or not isinstance(error, OSError | CrashedError):
                    raise
                say(f"{error}; again at {again:%H:%M:%S}")
                time.sleep(max(0.0, (again - datetime.now()).total_seconds()))
            else:
                self.note_attempts(work, [*before, this.end("done")])
                going_on = False

        while going_on:
            yield attempt()

    def _say(self, watch: EventCallback, number: int, name: str, text: str) -> None:
        self.claims.confirm(ask=False)
        watch(Event("doing", number, name, text=text))

    @contextmanager
    def _next_trial(self, watch: EventCallback) -> Iterator[Trial | None]:
        """A trial of our own with its candidate proposed, its lock held; None when nothing is left to start."""
        with ExitStack() as claim:
            with self.claims.exclusive("ask"):
                trial = self._orphan(claim, watch) or self._ask(claim, watch)
            yield trial

    def propose(self, watch: EventCallback) -> int | None:
        """A new trial with its candidate, for others to finetune; None when the budget has been spent."""
        with self.claims.exclusive("ask"), ExitStack() as claim:
            halves = [trial for trial in self.unfinished() if PARAMETER not in trial.params]  # whose asker died
            trial = self._propose(Trial(self._study, halves[0]._trial_id), "resumed", watch) if halves else None
            trial = trial or self._ask(claim, watch)
            return None if trial is None else trial.number

    def unfinished(self) -> list[FrozenTrial]:
        """Trials within the budget that are not finished, whoever works on them; lowest first."""
        return [trial for trial in self.trials()[: self.budget] if trial.state == TrialState.RUNNING]

    def _orphan(self, claim: ExitStack, watch: EventCallback) -> Trial | None:
        """The first running trial within the budget that no living controller works on."""
        for place, trial in enumerate(self.trials()):
            if trial.state != TrialState.RUNNING or place >= self.budget:
                continue
            with ExitStack() as attempt:
                ours = attempt.enter_context(self.claims.claim(f"{TRIAL}{trial.number}"))
                if not ours:
                    self._await(trial, watch)
                elif self.trials()[place].state == TrialState.RUNNING:  # else its owner finished it just now
                    claim.enter_context(attempt.pop_all())
                    return self._propose(Trial(self._study, trial._trial_id), "resumed", watch)
        return None

    def _await(self, trial: FrozenTrial, watch: EventCallback) -> None:
        if trial.number not in self._awaited:
            self._awaited.add(trial.number)
            owner = self.claims.holder(f"{TRIAL}{trial.number}") or "another controller"
            watch(Event("waiting", trial.number, trial.user_attrs.get(REPRESENTATION, "a candidate"), text=owner))

    def _ask(self, claim: ExitStack, watch: EventCallback) -> Trial | None:
        """A new trial, unless the budget has been spent."""
        if len(self.trials()) >= self.budget:
            return None
        trial = self._study.ask()
        place = sum(other.number < trial.number for other in self.trials())
        if place >= self.budget:  # only if somebody asked without our lock; the lower numbers win
            trial.set_user_attr(SURPLUS, True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        claim.enter_context(self.claims.exclusive(f"{TRIAL}{trial.number}"))
        return self._propose(trial, "proposed", watch)

    def _propose(self, trial: Trial, kind: str, watch: EventCallback) -> Trial:
        """Let the policy choose the trial's candidate; one that was chosen before a crash stays."""
        self._study.sampler = self._sampler
        representation = self._table.representations[
            trial.suggest_int(PARAMETER, 0, len(self._table.representations) - 1)
        ]
        trial.set_user_attr(REPRESENTATION, representation)
        watch(Event(kind, trial.number, representation))
        return trial
