"""Merge two copies of a study that went on separately: add to this one what only the other has, or refuse.

Two studies are copies of one if they have the same table, prior, objective, policy, seed and time of start. A study
finetunes a candidate once, so a trial of one copy and a trial of the other are the same if their candidate is.

    here                  in the bundle         result
    no study              any                   the whole study, with its numbers, states and times
    no such trial         any                   added, with its number if that is the next one, else with the next
    running               finished              finished, as in the bundle
    running               running               unchanged
    finished              running               unchanged
    complete              complete, equal       unchanged
    complete              complete, different   refused: it is not known which of them is right
    failed                complete, or reverse  refused: a finished trial does not change
    no candidate yet      same trial, with one  the trial gets that candidate, and its result if it has one
    any                   no candidate yet      added if it is the next one, else left out: it has not begun

Scores of both copies are kept; where both measured a candidate with different results, the merge is refused. The budget
is the larger of the two, and must allow the finetunes of both copies together. Other attributes are added where they
are missing.

Results of the bundle count as known after everything that is known here: a trial that is added counts as finished no
earlier than the last finished trial here, and a trial that the bundle completes is finished now. So the steps that the
MLflow record already has stay correct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NaiveDatetime, TypeAdapter, ValidationError, model_validator

from acsearch.bundles.reader import first_error
from acsearch.config.table_file import Name
from acsearch.errors import BundleError
from acsearch.policies.sampler import SCORES_ATTRIBUTE
from acsearch.runners.base import CandidateScores
from acsearch.study.identity import READABLE
from acsearch.study.stored import ABOUT, BUDGET, POINTS, REPRESENTATION, SCORE, SURPLUS, TRIAL
from acsearch.tables.table import Table
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel


class _About(BaseModel):
    """The attributes of a study that a bundle must have."""

    model_config = ConfigDict(extra="allow", strict=True)
    format: int
    title: str
    objective: str
    policy: str
    seed: int = Field(ge=0)
    started: str


class TrialExport(StrictModel, strict=True, allow_inf_nan=True, ser_json_inf_nan="constants"):
    """A trial as a storage holds it.

    Attributes:
        number: Number of the trial.
        state: State in Optuna.
        value: The objective; None unless the trial is complete.
        candidate: Row of the candidate; None before it was proposed.
        pool: Number of candidates; None before one was proposed.
        started: Time of start, without time zone, as Optuna stores it.
        finished: Time of end; None while the trial runs.
        attributes: The user attributes of the trial.
    """

    number: int = Field(ge=0)
    state: Literal["RUNNING", "COMPLETE", "FAIL"]
    value: float | None
    candidate: int | None = Field(ge=0)
    pool: int | None
    started: NaiveDatetime | None
    finished: NaiveDatetime | None
    attributes: dict[str, Any]

    @model_validator(mode="after")
    def _whole(self) -> TrialExport:
        if (self.candidate is None) != (self.pool is None) or (self.candidate or 0) >= (self.pool or 1):
            raise ValueError(f"trial {self.number}: candidate {self.candidate} of {self.pool}")
        if (self.state == "COMPLETE") != (self.value is not None) or (self.state == "RUNNING") != (
            self.finished is None
        ):
            raise ValueError(f"trial {self.number}: {self.state}, value {self.value}, finished {self.finished}")
        if self.state == "COMPLETE" and self.candidate is None:
            raise ValueError(f"trial {self.number}: complete, without a candidate")
        return self

    @property
    def counts(self) -> bool:
        """Whether the trial counts towards the budget."""
        return not self.attributes.get(SURPLUS)


class StudyExport(StrictModel, strict=True, allow_inf_nan=True, ser_json_inf_nan="constants"):
    """A study as a storage holds it at one moment.

    Attributes:
        name: Name of the study.
        attributes: The user attributes of the study; empty for a study that does not exist.
        trials: The trials, numbered from 0.
    """

    name: Name
    attributes: dict[str, Any] = {}
    trials: tuple[TrialExport, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> StudyExport:
        if [one.number for one in self.trials] != list(range(len(self.trials))):
            raise ValueError("trials are not numbered from 0")
        proposed = [one.candidate for one in self.trials if one.candidate is not None]
        if len(set(proposed)) < len(proposed):
            raise ValueError("a candidate is finetuned twice")
        if not isinstance(self.budget, int):
            raise ValueError(f"budget {self.budget!r}")
        return self

    @property
    def about(self) -> dict[str, Any] | None:
        """What the study was started with; None where it was never started."""
        return self.attributes.get(ABOUT)

    @property
    def budget(self) -> int:
        """Number of finetunes that the study may do."""
        budget: int = self.attributes.get(BUDGET, 0)
        return budget

    @property
    def scores(self) -> dict[int, CandidateScores]:
        """A and C by row of the candidate.

        Raises:
            ValueError: an attribute is not what acsearch writes.
        """
        read = TypeAdapter(CandidateScores).validate_python
        found = {key.removeprefix(SCORE): one for key, one in self.attributes.items() if key.startswith(SCORE)}
        return {int(row): read(one) for row, one in found.items()}


@dataclass(frozen=True)
class Changes:
    """What has to be written to the study here.

    Attributes:
        attributes: Attributes of the study to set.
        finish: Trials here, each with the trial of the bundle that gives its candidate or its result.
        add: Trials to add, with their new numbers.
    """

    attributes: dict[str, Any]
    finish: tuple[tuple[TrialExport, TrialExport], ...]
    add: tuple[TrialExport, ...]

    def __bool__(self) -> bool:
        return bool(self.attributes or self.finish or self.add)

    @property
    def scores(self) -> int:
        """Number of candidates whose scores are added."""
        return sum(key.startswith(SCORE) for key in self.attributes)

    @property
    def claims(self) -> list[str]:
        """Names of the claims that must be held while the changes are written."""
        return [f"{TRIAL}{mine.number}" for mine, _ in self.finish] + [
            key for key in self.attributes if key.startswith(SCORE)
        ]


def merge(here: StudyExport, there: StudyExport, table: Table, budget: int = 0) -> Changes:
    """Compute what has to be added to the study here.

    Args:
        here: The study here.
        there: The study in the bundle.
        table: The table of candidates.
        budget: Finetunes to allow, where both copies together did more than the budget of either; 0 for none.

    Raises:
        BundleError: the two are not copies of one study, or contradict each other; the message says how.
        ConfigError: the budget is out of range.
    """
    _check_same_study(here, there)
    _check(there, table)
    if budget and not there.budget <= budget <= len(table.representations):
        raise ConfigError(f"--budget {budget}: choose {there.budget} to {len(table.representations)}")
    _check_same_scores(here, there, table.representations)
    allowed = max(here.budget, there.budget, budget)
    attributes = {key: value for key, value in there.attributes.items() if key not in here.attributes}
    if allowed > here.budget:
        attributes[BUDGET] = allowed
    by_candidate: dict[int | None, TrialExport] = {
        one.candidate: one for one in here.trials if one.candidate is not None
    }
    finish: list[tuple[TrialExport, TrialExport]] = []
    add: list[TrialExport] = []
    latest = max((one.finished for one in here.trials if one.finished), default=None)
    for one in there.trials:
        place = len(here.trials) + len(add)
        mine = by_candidate.get(one.candidate) or (here.trials[one.number] if one.number < len(here.trials) else None)
        if mine and mine.candidate == one.candidate is not None:
            if mine.state == "RUNNING" and one.state != "RUNNING":
                finish.append((mine, one))
            elif mine.state != "RUNNING" and one.state != "RUNNING":
                _check_same_result(mine, one, table.representations)
        elif mine and mine.candidate is None and mine.state == "RUNNING" and one.candidate is not None:
            finish.append((mine, one))
        elif one.candidate is not None or one.number == place:
            finished = max(one.finished, latest) if one.finished and latest else one.finished
            add.append(one.model_copy(update={"number": place, "finished": finished}))
    together = sum(one.counts for one in (*here.trials, *add))
    if together > allowed:
        raise BundleError(
            f"study {here.name!r}: the two copies have {together} finetunes together, and its budget is {allowed}: "
            f"nothing was imported; allow them with --budget {together}"
        )
    return Changes(attributes, tuple(finish), tuple(add))


def _check(export: StudyExport, table: Table) -> None:
    """Raise BundleError when a study does not fit its table."""
    try:
        about = _About.model_validate(export.about)
        datetime.fromisoformat(about.started)
        if about.format not in READABLE:
            raise ValueError(f"format {about.format}, where this acsearch reads {READABLE}")
        if not 1 <= export.budget <= len(table.representations):
            raise ValueError(f"a budget of {export.budget} finetunes of {len(table.representations)}")
        for row, scores in export.scores.items():
            if not 0 <= row < len(table.representations) or len(scores.alignment) != len(table.benchmarks):
                raise ValueError(f"scores of a candidate {row} on {len(scores.alignment)} benchmarks")
        for trial in export.trials:
            _check_trial(trial, table)
    except ValidationError as error:
        raise BundleError(f"study {export.name!r}: not as acsearch writes it: {first_error(error)}") from error
    except (ValueError, TypeError) as error:
        raise BundleError(f"study {export.name!r}: not as acsearch writes it: {error}") from error


def _check_trial(trial: TrialExport, table: Table) -> None:
    if trial.candidate is None:
        return
    given = trial.attributes.get(REPRESENTATION)
    known = table.representations[trial.candidate] if trial.pool == len(table.representations) else None
    if known is None or given not in (known, None):
        raise ValueError(f"trial {trial.number}: {given!r} is not candidate {trial.candidate}, {known!r}")
    if trial.state == "COMPLETE":
        for key in (POINTS, SCORES_ATTRIBUTE):
            values = trial.attributes.get(key)
            if not isinstance(values, dict) or {*values} != {*table.benchmarks}:
                raise ValueError(f"trial {trial.number}: {key} are not those of {', '.join(table.benchmarks)}")
            if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values.values()):
                raise ValueError(f"trial {trial.number}: {key} are not numbers")


def _check_same_study(here: StudyExport, there: StudyExport) -> None:
    if here.about is None:
        if here.trials and here.trials != there.trials[: len(here.trials)]:  # equal ones are of an interrupted import
            raise BundleError(f"study {here.name!r} is here already, and acsearch did not start it")
        return
    ours, theirs = _identity(here.about), _identity(there.about or {})
    for key in ("started", *sorted({*ours, *theirs})):
        if ours.get(key) != theirs.get(key):
            raise BundleError(
                f"study {here.name!r} is another one of the same name: {key} is {ours.get(key)} here and "
                f"{theirs.get(key)} in the bundle; nothing was imported"
            )


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What a study was started with, without the locations of its table and prior."""
    return about | {part: about[part]["digest"] for part in ("table", "prior") if part in about}


def _check_same_scores(here: StudyExport, there: StudyExport, names: Sequence[str]) -> None:
    ours = here.scores
    for row, theirs in there.scores.items():
        if row in ours and _measured(ours[row]) != _measured(theirs):
            raise BundleError(
                f"study {here.name!r}: {names[row]} was scored in both copies, A and C are {_shown(ours[row])} here "
                f"and {_shown(theirs)} in the bundle; nothing was imported, go on with one of the copies"
            )


def _measured(scores: CandidateScores) -> tuple[object, ...]:
    return scores.alignment, scores.correspondence


def _shown(scores: CandidateScores) -> str:
    return f"{', '.join(map(str, dict.fromkeys(scores.alignment)))} and {scores.correspondence}"


def _check_same_result(mine: TrialExport, one: TrialExport, names: Sequence[str]) -> None:
    """Raise BundleError when two finetunes of a candidate have different results."""
    assert one.candidate is not None
    what = f"{names[one.candidate]} was finetuned as trial {mine.number} here and as trial {one.number} in the bundle"
    keep = "nothing was imported; a study has one finetune of a candidate, go on with one of the copies"
    if mine.state != one.state:
        raise BundleError(f"{what}: {mine.state.lower()} here, {one.state.lower()} there; {keep}")
    ours, theirs = mine.attributes.get(POINTS, {}), one.attributes.get(POINTS, {})
    for benchmark in ours:
        if ours[benchmark] != theirs.get(benchmark):
            raise BundleError(f"{what}: {benchmark} is {ours[benchmark]} here, {theirs.get(benchmark)} there; {keep}")
