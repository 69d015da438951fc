"""Trials: which candidate is finetuned next, and who may start it.

A trial is one full finetune, and the budget is exact:

- Trials are asked for under a lock, and one whose place among the trials is beyond the budget is never started: if two
  controllers got past the lock, the lower trial number would win.
- A trial is worked on under its own claim. A trial that is running and that nobody has claimed belonged to a controller
  that died; the next one takes it up under the same number, so a crash costs no finetune.
- A proposal depends on (study seed, trial number) and the finished trials alone, so whoever resumes proposes the same.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

from optuna.trial import FrozenTrial, Trial, TrialState

from acsearch.errors import StudyError
from acsearch.law.bayes import objective_weights
from acsearch.law.features import Features
from acsearch.policies.registry import make_policy
from acsearch.policies.sampler import PARAMETER, CandidateSampler
from acsearch.study.events import EventCallback, Proposed, Resumed, Waiting
from acsearch.study.schema import REPRESENTATION, SURPLUS, TRIAL
from acsearch.study.stored import StoredStudy


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
        """Claim the first trial that nobody works on, else a new one; None when there is nothing left to start."""
        with self._stored.claims.exclusive("ask"):
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
            trials = {one.number: one for one in self._within_budget() if PARAMETER in one.params}
            if number not in trials:
                known = ", ".join(map(str, trials)) or "none yet"
                raise StudyError(f"study {self._stored.name!r} has no trial {number}; its trials: {known}")
            if trials[number].state != TrialState.RUNNING:
                return None
            candidate = trials[number].params[PARAMETER]
            return ClaimedTrial(number, candidate, self._stored.table.representations[candidate], claim.pop_all())

    def propose(self) -> Proposal | None:
        """A trial with its candidate, for others to finetune; None when the budget has been spent."""
        with self._stored.claims.exclusive("ask"):
            for trial in self.unfinished():
                if PARAMETER not in trial.params:  # whoever asked for it died
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
            name = trial.user_attrs.get(REPRESENTATION, "a candidate")
            self._on_event(Waiting(trial.params.get(PARAMETER, -1), name, trial.number, owner))

    # -- proposals -----------------------------------------------------------------------------------------------------

    def _ask(self) -> Trial | None:
        """A new trial without a candidate, unless the budget has been spent."""
        study = self._stored.optuna_study
        if len(self._stored.trials()) >= self._stored.budget:
            return None
        trial = study.ask()
        place = sum(other.number < trial.number for other in self._stored.trials())
        if place >= self._stored.budget:  # only if somebody asked without our lock; the lower numbers win
            trial.set_user_attr(SURPLUS, True)
            study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def _taken_up(self, trial: FrozenTrial) -> Trial:
        return Trial(self._stored.optuna_study, trial._trial_id)

    def _propose(self, trial: Trial, *, resumed: bool) -> Proposal:
        """Let the policy choose the trial's candidate; one that was chosen before a crash stays."""
        self._stored.optuna_study.sampler = self._sampler
        names = self._stored.table.representations
        candidate = trial.suggest_int(PARAMETER, 0, len(names) - 1)
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
