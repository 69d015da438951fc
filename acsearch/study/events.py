"""What happens in a study, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from acsearch.study.snapshot import Step
from acsearch.study.stored import StoredStudy


@dataclass(frozen=True)
class Event:
    """Something that a person watching wants to hear about.

    kind: scoring, scored, proposed, resumed, submitted, finetuning, finetuned, failed, waiting, or doing; `text` says
    more of some.
    """

    kind: str
    trial: int
    representation: str
    step: Step | None = None
    text: str = ""


EventCallback = Callable[[Event], None]


class ProgressPoller:
    """Tells a watcher what has been scored and finetuned since it was last asked, by whomever."""

    def __init__(self, study: StoredStudy, watch: EventCallback) -> None:
        self._study, self._watch = study, watch
        self._unscored, self._told = set(study.unscored), self._over()

    def poll(self) -> None:
        unscored = set(self._study.unscored)
        for row in sorted(self._unscored - unscored):
            self._watch(Event("scored", row, self._study.snapshot().table.representations[row]))
        self._unscored = unscored
        if len(over := self._over()) > len(self._told):
            snapshot = self._study.snapshot()
            for step, record in zip(snapshot.steps[1:], snapshot.finished, strict=True):
                if record.trial in over - self._told:
                    self._watch(Event("finetuned", record.trial, record.representation, step))
            for record in snapshot.finetunes:
                if record.state == "failed" and record.trial in over - self._told:
                    why = record.attempts[-1].error if record.attempts else None
                    self._watch(Event("failed", record.trial, record.representation, text=why or ""))
            self._told = over

    def _over(self) -> set[int]:
        return {trial.number for trial in self._study.trials() if trial.state.is_finished()}
