"""Trials: which candidate is finetuned next, and who may start it.

A trial is one full finetune, and the budget is exact:

- Trials are asked for under a lock, and one whose place among the trials is beyond the budget is never started: if two
  controllers got past the lock, the lower trial number would win.
- A trial is worked on under its own claim. A trial that is running and that nobody has claimed belonged to a controller
  that died; the next one takes it up under the same number, so a crash costs no finetune.
- A proposal depends on (study seed, trial number) and the finished trials alone, so whoever resumes proposes the same.

Others may have written trials too, by Optuna's own means: `enqueue_trial`, `ask`, `tell`, `add_trial`, its dashboard.
What they left is sorted out under the same lock, before anything is started:

- One that waits or runs, with a candidate that no other trial has or with none, is taken up like ours. Trials that wait
  come before new ones, in order, and count towards the budget; the policy chooses where no candidate was given. Other
  parameters do not matter.
- One that waits or runs and asks for a candidate that there is not, or that another trial has, fails with a word of
  warning, and costs nothing. Of two trials of one candidate, the one that was begun has it, else the lower number.
- One that failed before acsearch proposed its candidate costs nothing.
- One that is complete without scores of acsearch, or was pruned, cannot be judged, and Optuna can neither change nor
  remove it: the study is refused, with the numbers. So it is where a candidate is not an integer, beside which Optuna
  takes no integers any more, and where trials were deleted.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from acsearch.errors import StudyError
from acsearch.law.bayes import objective_weights
from acsearch.law.features import Features
from acsearch.policies.registry import make_policy
from acsearch.policies.sampler import PARAMETER, CandidateSampler
from acsearch.study.events import EventCallback, Proposed, Resumed, Waiting
from acsearch.study.schema import MEASURED, REPRESENTATION, SURPLUS, TRIAL
from acsearch.study.stored import StoredStudy

_log = logging.getLogger("acsearch")


@dataclass(frozen=True)
class Proposal:
    """A trial and its candidate.

    Attributes:
        trial: its number, from 0.
        candidate: row of the study's table.
        representation: the candidate's name.
    """

    trial: int
    candidate: int
    representation: str

    @property
    def work(self) -> str:
        """What its claim and its attempts are called."""
        return f"{TRIAL}{self.trial}"


@dataclass(frozen=True)
class ClaimedTrial(Proposal):
    """A trial that is ours to work on until the `with` block ends."""

    claim: ExitStack

    def __enter__(self) -> ClaimedTrial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.claim.close()


class Trials:
    """The trials of one study."""

    def __init__(self, stored: StoredStudy, on_event: EventCallback) -> None:
        self._stored, self._on_event = stored, on_event
        self._awaited: set[int] = set()  # trials of others that we have told of

    def claim_next(self) -> ClaimedTrial | None:
        """Claim the first trial that nobody works on, else a new one; None when there is nothing left to start.

        Raises:
            StudyError: others have written finished trials, or deleted some.
        """
        with self._stored.claims.exclusive("ask"):
            self._sort_out()
            return self._claim_orphan() or self._claim_new()

    def claim(self, number: int) -> ClaimedTrial | None:
        """Claim a trial whose candidate has been proposed; None where it is finished.

        Args:
            number: of the trial.

        Raises:
            StudyError: there is no such trial within the budget, or somebody works on it.
        """
        claim = self._claim(number)
        if claim is None:
            owner = self._stored.claims.holder(f"{TRIAL}{number}") or "somebody"
            raise StudyError(f"study {self._stored.name!r}: {TRIAL}{number} is worked on by {owner}")
        with claim:
            candidates = {one.number: self._stored.candidate(one) for one in self._within_budget()}
            candidate = candidates.get(number)
            if candidate is None:
                known = ", ".join(str(one) for one, row in candidates.items() if row is not None) or "none yet"
                raise StudyError(f"study {self._stored.name!r} has no trial {number}; its trials: {known}")
            if all(one.number != number for one in self.unfinished()):
                return None
            if reason := self._unusable().get(number):
                raise StudyError(f"study {self._stored.name!r}: trial {number} {reason}")
            return ClaimedTrial(number, candidate, self._stored.table.representations[candidate], claim.pop_all())

    def propose(self) -> Proposal | None:
        """A trial with its candidate, for others to finetune; None when the budget has been spent.

        Raises:
            StudyError: others have written finished trials, or deleted some.
        """
        with self._stored.claims.exclusive("ask"):
            self._sort_out()
            for trial in self.unfinished():
                if REPRESENTATION not in trial.user_attrs:  # whoever asked for it died
                    return self._propose(self._taken_up(trial), resumed=True)
            asked = self._ask()
            return None if asked is None else self._propose(asked, resumed=False)

    def unfinished(self) -> list[FrozenTrial]:
        """Trials within the budget that are not finished, whoever works on them; lowest first."""
        return [trial for trial in self._within_budget() if trial.state == TrialState.RUNNING]

    def _within_budget(self) -> list[FrozenTrial]:
        return self._stored.trials()[: self._stored.budget]

    # -- claims --------------------------------------------------------------------------------------------------------

    def _claim_orphan(self) -> ClaimedTrial | None:
        """The first unfinished trial that no living controller works on."""
        for trial in self.unfinished():
            claim = self._claim(trial.number)
            if claim is None:
                self._say_who_works_on(trial)
                continue
            with claim:
                if any(one.number == trial.number for one in self.unfinished()):  # else its owner finished it just now
                    return self._claimed(self._propose(self._taken_up(trial), resumed=True), claim)
        return None

    def _claim_new(self) -> ClaimedTrial | None:
        """A new trial, unless the budget has been spent."""
        asked = self._ask()
        if asked is None:
            return None
        with ExitStack() as claim:
            claim.enter_context(self._stored.claims.exclusive(f"{TRIAL}{asked.number}"))
            return self._claimed(self._propose(asked, resumed=False), claim)

    def _claim(self, number: int) -> ExitStack | None:
        """Hold a trial until the stack is closed; None where somebody else holds it."""
        with ExitStack() as stack:
            return stack.pop_all() if stack.enter_context(self._stored.claims.claim(f"{TRIAL}{number}")) else None

    @staticmethod
    def _claimed(proposal: Proposal, claim: ExitStack) -> ClaimedTrial:
        return ClaimedTrial(proposal.trial, proposal.candidate, proposal.representation, claim.pop_all())

    def _say_who_works_on(self, trial: FrozenTrial) -> None:
        if trial.number not in self._awaited:
            self._awaited.add(trial.number)
            owner = self._stored.claims.holder(f"{TRIAL}{trial.number}") or "another controller"
            row, names = self._stored.candidate(trial), self._stored.table.representations
            name = "a candidate" if row is None else names[row]
            self._on_event(Waiting(-1 if row is None else row, name, trial.number, owner))

    # -- what others have written --------------------------------------------------------------------------------------

    def _sort_out(self) -> None:
        """Fail the trials of others that cannot be run; raise StudyError where they are finished, or some are gone."""
        name, everything = self._stored.name, self._stored.optuna_study.get_trials(deepcopy=False)
        numbers = [trial.number for trial in everything]
        if numbers != list(range(len(numbers))) or not self._stored.begun <= set(numbers):
            raise StudyError(f"study {name!r}: trials were deleted; put a copy of its storage in its place")
        unusable, trials = self._unusable(), {trial.number: trial for trial in self._stored.trials()}
        refused = {number: why for number, why in unusable.items() if trials[number].state.is_finished()}
        refused |= {one.number: "has candidates of another kind" for one in everything if _is_of_another_kind(one)}
        if refused:
            said = ", ".join(f"trial {number} {refused[number]}" for number in sorted(refused))
            raise StudyError(
                f"study {name!r}: not as acsearch left it: {said}; nothing was started: put a copy of its storage in "
                f"its place, or start again under another --name"
            )
        for trial in (trials[number] for number in sorted(unusable)):
            with self._stored.claims.claim(f"{TRIAL}{trial.number}") as ours:
                if ours and self._fail(trial):
                    _log.warning("study %r: trial %d %s: it is not run", name, trial.number, unusable[trial.number])

    def _unusable(self) -> dict[int, str]:
        """Why trials can neither be run nor counted, by number; those that can are left out."""
        trials, begun = self._stored.trials(), self._stored.begun
        owners: dict[int, int] = {}
        for trial in sorted(trials, key=lambda one: (one.number not in begun, not one.state.is_finished(), one.number)):
            if (row := self._candidate(trial)) is not None:
                owners.setdefault(row, trial.number)
        reasons: dict[int, str] = {}
        for trial in trials:
            row, asked, over = self._candidate(trial), _asked(trial), trial.state.is_finished()
            if trial.state == TrialState.FAIL:
                continue
            if over and (row is None or trial.state == TrialState.PRUNED or not trial.user_attrs.keys() >= MEASURED):
                reasons[trial.number] = "was told by something else, without acsearch's scores"
            elif row is None and PARAMETER in asked:
                count = len(self._stored.table.representations)
                reasons[trial.number] = f"asks for candidate {asked[PARAMETER]!r:.50} of 0 to {count - 1}"
            elif row is not None and owners[row] != trial.number:
                reasons[trial.number] = f"is of candidate {row}, which trial {owners[row]} has"
        return reasons

    def _candidate(self, trial: FrozenTrial) -> int | None:
        """Row of the candidate that a trial has, or asks for; None where it has none that there is."""
        if PARAMETER in trial.params:
            return self._stored.candidate(trial)
        row = _asked(trial).get(PARAMETER)
        return row if type(row) is int and 0 <= row < len(self._stored.table.representations) else None

    def _fail(self, trial: FrozenTrial) -> bool:
        """End a trial that was never begun, so that it costs nothing. Returns whether it was not ended yet."""
        storage = self._stored.optuna_study._storage
        try:
            storage.set_trial_user_attr(trial._trial_id, SURPLUS, True)
            return storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    # -- proposals -----------------------------------------------------------------------------------------------------

    def _ask(self) -> Trial | None:
        """The first trial that waits, else a new one; None when the budget has been spent."""
        study, unusable = self._stored.optuna_study, self._unusable()
        for trial in self._within_budget():
            if trial.state == TrialState.WAITING and trial.number not in unusable and self._start(trial):
                return self._taken_up(trial)
        if len(self._stored.trials()) >= self._stored.budget:
            return None
        new = Trial(study, study._storage.create_new_trial(study._study_id))  # study.ask() might take one that waits
        place = sum(other.number < new.number for other in self._stored.trials())
        if place >= self._stored.budget:  # only if somebody asked without our lock; the lower numbers win
            self._fail(study._storage.get_trial(new._trial_id))
            return None
        return new

    def _start(self, trial: FrozenTrial) -> bool:
        """Whether a trial that waited runs now because of us."""
        try:
            return self._stored.optuna_study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _taken_up(self, trial: FrozenTrial) -> Trial:
        return Trial(self._stored.optuna_study, trial._trial_id)

    def _propose(self, trial: Trial, *, resumed: bool) -> Proposal:
        """Let the policy choose the trial's candidate; one that was chosen before a crash stays."""
        self._stored.optuna_study.sampler = self._sampler
        names = self._stored.table.representations
        candidate = trial.suggest_int(PARAMETER, 0, len(names) - 1)
        if reason := self._unusable().get(trial.number):  # somebody has just chosen without our lock
            raise StudyError(f"study {self._stored.name!r}: trial {trial.number} {reason}; resume to go on without it")
        trial.set_user_attr(REPRESENTATION, names[candidate])
        event = Resumed if resumed else Proposed
        self._on_event(event(candidate, names[candidate], trial.number))
        return Proposal(trial.number, candidate, names[candidate])

    @cached_property
    def _sampler(self) -> CandidateSampler:
        stored, table = self._stored, self._stored.table
        weights = objective_weights(table.benchmarks, stored.objective)
        policy = make_policy(stored.policy, stored.prior)
        return CandidateSampler(policy, Features.of(table), table.benchmarks, weights, stored.seed)


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial has or was enqueued with."""
    given = trial.system_attrs.get("fixed_params", {})
    return (given if isinstance(given, dict) else {PARAMETER: given}) | trial.params


def _is_of_another_kind(trial: FrozenTrial) -> bool:
    """Whether the parameter has a kind of distribution beside which Optuna takes no other one in the whole study."""
    return PARAMETER in trial.params and not isinstance(trial.distributions[PARAMETER], IntDistribution)
