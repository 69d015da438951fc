"""What happens in a study, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from acsearch.study.snapshot import Step
from acsearch.study.stored import StoredStudy


@dataclass(frozen=True)
class Event:
    """Something that a person who watches wants to hear about.

    Attributes:
        candidate: row of the candidate in the study's table; -1 where none has been chosen yet.
        representation: its name.
    """

    candidate: int
    representation: str

    @property
    def detail(self) -> str:
        """What more there is to say, for a log; empty where there is nothing."""
        return ""


@dataclass(frozen=True)
class Scoring(Event):
    """A candidate's A and C begin to be measured."""


@dataclass(frozen=True)
class Scored(Event):
    """A candidate's A and C are known."""


@dataclass(frozen=True)
class Doing(Event):
    """What goes on with a candidate right now."""

    text: str

    @property
    def detail(self) -> str:
        return self.text


@dataclass(frozen=True)
class TrialEvent(Event):
    """Something about a trial, which is one full finetune.

    Attributes:
        trial: its number, from 0.
    """

    trial: int


@dataclass(frozen=True)
class Proposed(TrialEvent):
    """The policy has chosen a trial's candidate."""


@dataclass(frozen=True)
class Resumed(TrialEvent):
    """A trial is taken up again whose controller is gone."""


@dataclass(frozen=True)
class Finetuning(TrialEvent):
    """A finetune begins."""


@dataclass(frozen=True)
class Finetuned(TrialEvent):
    """A finetune is finished, here or elsewhere.

    Attributes:
        step: what is known after it.
    """

    step: Step


@dataclass(frozen=True)
class Failed(TrialEvent):
    """A candidate cannot be trained."""

    reason: str

    @property
    def detail(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Waiting(TrialEvent):
    """Somebody else works on a trial.

    Attributes:
        owner: host and process, as far as they are known.
    """

    owner: str

    @property
    def detail(self) -> str:
        return self.owner


@dataclass(frozen=True)
class Submitted(Event):
    """A piece of work was handed to a scheduler.

    Attributes:
        job: the job and its cluster.
    """

    job: str

    @property
    def detail(self) -> str:
        return self.job


EventCallback = Callable[[Event], None]


class ProgressPoller:
    """Looks for what has been scored and finetuned since it last looked, by whomever, and calls back."""

    def __init__(self, stored: StoredStudy, on_event: EventCallback) -> None:
        self._stored, self._on_event = stored, on_event
        self._unscored, self._over = set(stored.unscored), self._finished()

    def poll(self) -> None:
        """Call back for each candidate that has been scored, and each trial that is over, since the last time."""
        unscored = set(self._stored.unscored)
        for row in sorted(self._unscored - unscored):
            self._on_event(Scored(row, self._stored.table.representations[row]))
        self._unscored = unscored
        finished = self._finished()
        fresh, self._over = finished - self._over, finished
        if not fresh:
            return
        snapshot = self._stored.snapshot()
        for step, record in zip(snapshot.steps[1:], snapshot.finished, strict=True):
            if record.trial in fresh and record.candidate is not None:
                self._on_event(Finetuned(record.candidate, record.representation, record.trial, step))
        for record in snapshot.finetunes:
            if record.state == "failed" and record.trial in fresh and record.candidate is not None:
                why = record.attempts[-1].error if record.attempts else None
                self._on_event(Failed(record.candidate, record.representation, record.trial, why or ""))

    def _finished(self) -> set[int]:
        return {trial.number for trial in self._stored.trials() if trial.state.is_finished()}
