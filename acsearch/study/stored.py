"""A study as its storage holds it: what is searched, what has been found, who is at what.

Optuna's storage is the truth. The study's user attributes hold what it was started with (`acsearch`), the budget, each
candidate's A and C (`score-ROW`), the runs of the MLflow record, and for each piece of work (`score-ROW` or
`trial-NUMBER`) the attempts at it and the job it was last handed to. A trial is one full finetune; its user attributes
hold its scores. All times are kept in UTC, those of trials by Optuna, which gives them as local times without a zone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from acsearch.config.prior_file import load_prior
from acsearch.config.study_file import Source, load_source
from acsearch.errors import StudyError
from acsearch.law.prior import Prior
from acsearch.policies.sampler import PARAMETER, SCORES_ATTRIBUTE
from acsearch.runners.base import CandidateScores, Observation
from acsearch.storage.claims import Claims
from acsearch.study.attempts import Attempt, Submission
from acsearch.study.identity import READABLE, digest
from acsearch.study.schema import (
    ABOUT,
    ATTEMPTS,
    BUDGET,
    CHECKPOINT,
    ERRORS,
    JOB,
    POINTS,
    REPRESENTATION,
    RUNS,
    SCORE,
    SECONDS,
    SURPLUS,
    TRIAL,
    About,
    StudyContent,
    TrialContent,
    content_of,
    parse_attribute,
)
from acsearch.study.snapshot import FinetuneRecord, Snapshot, Step
from acsearch.study.times import localised, parse
from acsearch.study.validation import check, reading
from acsearch.tables.table import Table, is_scored, with_scores
from trainers.errors import ConfigError, first_line

_READS, _PAUSE = 3, 0.1  # of a study that does not fit together; seconds between them
Part = TypeVar("Part", Table, Prior)


class StoredStudy:
    """Reads and writes a study in its storage. `acsearch.study.study.Study` works on it.

    Attributes:
        name: of the study.
        claims: say who works on what in it.
        optuna_study: the same study, as Optuna has it.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, claims: Claims, name: str) -> None:
        """
        Args:
            storage: Optuna's, which has a study of this name.
            claims: of the study.
            name: of the study.
        """
        self.optuna_study = optuna.load_study(study_name=name, storage=storage)
        self.name, self.claims = name, claims
        self._steps: dict[tuple[int, ...], Step] = {}
        self._scored: Table | None = None

    @classmethod
    def open(cls, storage: optuna.storages.BaseStorage, claims: Claims, name: str) -> StoredStudy:
        """A study by its name.

        Raises:
            StudyError: there is none of this name; the message names those that there are.
        """
        if not exists(storage, name):
            names = [summary.study_name for summary in summaries(storage)]
            there = f"there are {', '.join(names)}" if names else "the storage has none yet; acsearch study start"
            raise StudyError(f"no study {name!r}: {there}")
        return cls(storage, claims, name)

    # -- what it was started with --------------------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        """How many finetunes may be started, whoever starts them."""
        return int(parse_attribute(BUDGET, self.optuna_study.user_attrs[BUDGET]))

    @cached_property
    def _about(self) -> About:
        about: dict[str, Any] = self.optuna_study.user_attrs[ABOUT]
        if about.get("format") not in READABLE:
            raise StudyError(
                f"study {self.name!r} was written by another version of acsearch (format {about.get('format')}; this "
                f"one reads {READABLE}): go on with it there, or start it again under another --name"
            )
        return cast(About, parse_attribute(ABOUT, about))

    @property
    def source(self) -> Source:
        """Where the candidates come from."""
        return Source(**self._about.table.source.model_dump())

    @property
    def objective(self) -> str:
        """What counts: "mean", or one benchmark."""
        return self._about.objective

    @property
    def policy(self) -> str:
        """The name of what proposes."""
        return self._about.policy

    @property
    def seed(self) -> int:
        """Of the policy's randomness."""
        return self._about.seed

    @cached_property
    def _pool(self) -> Table:
        """The candidates as they were when the study was started."""
        source = self.source
        what = "training" if source.study else "table"
        return self._unchanged(self._about.table.digest, load_source(source), f"{what} {source.study or source.table}")

    @property
    def table(self) -> Table:
        """The candidates with the A and C that have been measured so far."""
        if self._scored is None:
            prefix = len(SCORE)
            attributes = self.optuna_study.user_attrs.items()
            found = ((key, parse_attribute(key, value)) for key, value in attributes if key.startswith(SCORE))
            scores = {int(key[prefix:]): one.model_dump() for key, one in found}
            table = with_scores(self._pool, scores)
            if not is_scored(table):
                return table
            self._scored = table  # nothing is measured twice
        return self._scored

    @property
    def unscored(self) -> list[int]:
        """Candidates whose A is not known yet."""
        return np.flatnonzero(np.isnan(self.table.alignment[:, 0])).tolist()

    @cached_property
    def prior(self) -> Prior:
        source = self._about.prior.source
        return self._unchanged(self._about.prior.digest, load_prior(source), f"prior {source}")

    def _unchanged(self, expected: str, part: Part, name: str) -> Part:
        if digest(part, self._about.format) != expected:
            raise StudyError(f"study {self.name!r}: the {name} has changed since the study was started")
        return part

    def trials(self) -> list[FrozenTrial]:
        """The trials that are finetunes, or may become one, in order: all but those that failed before they began."""
        begun = self.begun

        def is_void(trial: FrozenTrial) -> bool:
            ours = REPRESENTATION in trial.user_attrs and not trial.user_attrs.get(SURPLUS)
            return trial.state == TrialState.FAIL and not ours and trial.number not in begun

        return [trial for trial in self.optuna_study.get_trials(deepcopy=False) if not is_void(trial)]

    @property
    def begun(self) -> set[int]:
        """Numbers of the trials at which there were attempts here."""
        prefix = ATTEMPTS + TRIAL
        tried = {key.removeprefix(prefix) for key, value in self.optuna_study.user_attrs.items() if value}
        return {int(number) for number in tried if number.isdecimal()}

    def candidate(self, trial: FrozenTrial) -> int | None:
        """Row of a trial's candidate; None where it has none yet, or something else than acsearch proposes."""
        count = len(self._pool.representations)
        if trial.distributions.get(PARAMETER) != IntDistribution(0, count - 1):
            return None
        row: int = trial.params[PARAMETER]
        return row if 0 <= row < count else None

    def snapshot(self) -> Snapshot:
        """The study as it is now.

        Raises:
            StudyError: the storage does not hold what a study can be, or the table or the prior has changed.
        """
        with reading(f"study {self.name!r}"):
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        about, table = self._about, self.table
        content = self._checked(table)
        return Snapshot(
            name=self.name,
            title=about.title,
            table=table,
            objective=about.objective,
            policy=about.policy,
            prior=self.prior,
            seed=about.seed,
            budget=content.budget,
            started=parse(about.started),
            started_text=about.started,
            finetunes=tuple(self._record(trial, content) for trial in content.finetunes),
            memory=self._steps,
        )

    def _checked(self, table: Table) -> StudyContent:
        """All that the storage holds, read again where it does not fit: a server may give parts of two moments."""
        for _ in range(_READS - 1):
            with suppress(ValueError):
                content = self.content()
                check(content, table)
                return content
            time.sleep(_PAUSE)
        content = self.content()
        try:
            check(content, table)
        except ValueError as error:
            raise StudyError(f"study {self.name!r}: damaged: {error}") from error
        return content

    def content(self) -> StudyContent:
        """All that the storage holds of the study.

        Raises:
            ValueError: it is not what acsearch writes.
        """
        attributes = self.optuna_study.user_attrs
        return content_of(self.name, attributes, self.optuna_study.get_trials(deepcopy=False))

    def _record(self, trial: TrialContent, study: StudyContent) -> FinetuneRecord:
        state, work, found = trial.state.lower(), f"{TRIAL}{trial.number}", trial.attributes
        owner = self.claims.holder(work) if trial.state == "RUNNING" else None
        if trial.state == "RUNNING" and owner is None:
            state = "interrupted"
        complete, job = trial.state == "COMPLETE", study.jobs.get(work)
        candidate = trial.candidate if trial.pool == len(self._pool.representations) else None
        return FinetuneRecord(
            trial=trial.number,
            candidate=candidate,
            representation="" if candidate is None else found.representation or "",
            state="failed" if state == "fail" else state,
            points=found.points or {} if complete else {},
            errors=found.errors or {} if complete else {},
            seconds=found.seconds if complete else None,
            checkpoint=found.checkpoint if complete else None,
            run=study.runs.get(f"finetune/{trial.number}"),
            objective=trial.value if complete else None,
            started=parse(self._about.started) if trial.started is None else localised(trial.started),
            finished=None if trial.finished is None else localised(trial.finished),
            owner=owner,
            attempts=tuple(Attempt(**vars(one)) for one in study.attempts.get(work, ())),
            submission=None if job is None else Submission(**vars(job)),
        )

    # -- what is written down ------------------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, str]:
        """The runs of the MLflow record; see `acsearch.reporting.mlflow_record.Record.record`."""
        return dict(parse_attribute(RUNS, self.optuna_study.user_attrs.get(RUNS, {})))

    def raise_budget(self, budget: int) -> None:
        """Allow more finetunes.

        Raises:
            ConfigError: it is less than the study has, or more than there are candidates.
        """
        with self.claims.exclusive("ask"):
            limit = len(self.table.representations)
            if not self.budget <= budget <= limit:
                raise ConfigError(f"--budget {budget}: the study has {self.budget}; choose {self.budget} to {limit}")
            self.optuna_study.set_user_attr(BUDGET, budget)

    def note_runs(self, runs: dict[str, str]) -> None:
        """Remember which runs of the MLflow record are ours."""
        if runs != self.runs:
            self.optuna_study.set_user_attr(RUNS, runs)

    def attempts(self, work: str) -> tuple[Attempt, ...]:
        """All attempts at a piece of work, oldest first. work: `score-ROW` or `trial-NUMBER`."""
        found = parse_attribute(ATTEMPTS + work, self.optuna_study.user_attrs.get(ATTEMPTS + work, []))
        return tuple(Attempt(**vars(one)) for one in found)

    def note_attempts(self, work: str, attempts: Sequence[Attempt]) -> None:
        """For who holds the work's lock."""
        self.optuna_study.set_user_attr(ATTEMPTS + work, [asdict(one) for one in attempts])

    def submission(self, work: str) -> Submission | None:
        """The job that a piece of work was last handed to."""
        found = self.optuna_study.user_attrs.get(JOB + work)
        return found and Submission(**vars(parse_attribute(JOB + work, found)))

    def note_submission(self, work: str, submission: Submission) -> None:
        """Remember the job that a piece of work was handed to."""
        self.optuna_study.set_user_attr(JOB + work, asdict(submission))

    def note_scores(self, row: int, scores: CandidateScores) -> None:
        """Keep A and C of a candidate.

        Raises:
            LeaseLostError: somebody else has taken the work over; nothing is written.
        """
        self.claims.confirm()
        self.optuna_study.set_user_attr(f"{SCORE}{row}", asdict(scores))

    def tell(self, number: int, observation: Observation, scaled: dict[str, float], objective: float) -> None:
        """A trial is finished.

        Args:
            number: of the trial.
            observation: of its finetune.
            scaled: its scores by benchmark, 0 at the floor and 1 at the ceiling.
            objective: what the study maximises, of these.

        Raises:
            LeaseLostError: somebody else has taken the work over; nothing is written.
            StudyError: somebody has told it already, by Optuna's own means.
        """
        self.claims.confirm()
        attributes = {POINTS: observation.scores, ERRORS: observation.errors, SECONDS: observation.seconds}
        attributes |= {CHECKPOINT: observation.checkpoint, SCORES_ATTRIBUTE: scaled}
        self._finish(number, attributes, TrialState.COMPLETE, objective)

    def tell_failed(self, number: int) -> None:
        """A trial will never finish. It stays spent, and its candidate is not proposed again."""
        self.claims.confirm()
        self._finish(number, {}, TrialState.FAIL)

    def _finish(
        self, number: int, attributes: dict[str, object], state: TrialState, objective: float | None = None
    ) -> None:
        trial = next((one for one in self.optuna_study.get_trials(deepcopy=False) if one.number == number), None)
        if trial is None:
            raise StudyError(f"study {self.name!r}: somebody deleted trial {number} while it was finetuned")
        try:
            for key, value in attributes.items():  # before it is told: who is complete has them
                self.optuna_study._storage.set_trial_user_attr(trial._trial_id, key, value)
            self.optuna_study.tell(number, objective, state)
        except (UpdateFinishedTrialError, ValueError, KeyError) as error:
            raise StudyError(
                f"study {self.name!r}: somebody told trial {number} while it was finetuned, so that its scores cannot "
                f"be kept: {first_line(error)}"
            ) from error


def exists(storage: optuna.storages.BaseStorage, name: str) -> bool:
    """Whether acsearch has started a study of this name."""
    return any(summary.study_name == name for summary in summaries(storage))


def summaries(storage: optuna.storages.BaseStorage) -> list[optuna.study.StudySummary]:
    """The acsearch studies of a storage, oldest first."""
    with reading("--storage"):
        return [one for one in optuna.get_all_study_summaries(storage, False) if ABOUT in one.user_attrs]
