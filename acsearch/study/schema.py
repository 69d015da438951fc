"""What acsearch writes into the storage of a study, as strict types.

Whoever reads a study checks it against these: `acsearch.study.stored` when it reads a storage, `acsearch.bundles` when
it reads a bundle. So what can be imported can be shown and gone on with. Attributes of other names belong to others,
and are kept as they are. `acsearch.study.validation` checks what depends on the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from acsearch.config.table_file import FileName, Name
from acsearch.policies.sampler import PARAMETER, SCORES_ATTRIBUTE
from acsearch.study.times import in_utc
from acsearch.tables.table import LARGEST
from trainers.utils.strict_yaml import StrictModel, abbreviate

SCORE, TRIAL = "score-", "trial-"  # pieces of work
ABOUT, BUDGET, ATTEMPTS, JOB, RUNS = "acsearch", "budget", "attempts-", "job-", "runs"  # attributes of a study
POINTS, ERRORS, SECONDS, CHECKPOINT = "points", "errors", "seconds", "checkpoint"  # of a trial
REPRESENTATION, SURPLUS = "representation", "surplus"
MEASURED = {POINTS, ERRORS, SECONDS, CHECKPOINT, SCORES_ATTRIBUTE, REPRESENTATION}  # what a finished trial has
_YEARS = range(2000, 2200)
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_WORK = re.compile(rf"(score|trial)-{_NUMBER}")


def _in_range(time: datetime) -> datetime:
    if time.year not in _YEARS:
        raise ValueError(f"a time in the year {time.year}")
    return time


def _iso(text: str) -> str:
    _in_range(datetime.fromisoformat(text))
    return text


IsoTime = Annotated[str, AfterValidator(_iso)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(ge=0, le=LARGEST)]
Detail = Annotated[float, Field(allow_inf_nan=True)]  # one sample, for instance, has no standard error
StoredTime = Annotated[datetime, AfterValidator(_in_range), AfterValidator(in_utc)]


class _Open(BaseModel):
    """Strict in what it names; what others added stays."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, ser_json_inf_nan="constants")


class Candidates(StrictModel, strict=True):
    """Where the candidates come from; see `acsearch.config.study_file.Source`."""

    table: FileName | None = None
    study: FileName | None = None

    @model_validator(mode="after")
    def _one(self) -> Candidates:
        if (self.table is None) == (self.study is None):
            raise ValueError("either a table or a study file")
        return self


class TablePart(StrictModel, strict=True):
    """The table of a study."""

    source: Candidates
    digest: str


class PriorPart(StrictModel, strict=True):
    """The prior of a study."""

    source: FileName
    digest: str


class About(_Open):
    """What a study was started with."""

    format: int
    title: str
    table: TablePart
    objective: str
    policy: str
    prior: PriorPart
    seed: int = Field(ge=0)
    started: IsoTime


class Scores(StrictModel, strict=True):
    """A and C of a candidate; see `acsearch.runners.base.CandidateScores`."""

    alignment: list[Number] = Field(min_length=1)
    correspondence: Number | None
    seconds: Positive = 0.0
    details: dict[str, Detail] = {}


class StoredAttempt(StrictModel, strict=True):
    """See `acsearch.study.attempts.Attempt`."""

    who: str
    began: IsoTime
    ended: IsoTime | None = None
    outcome: Literal["done", "preempted", "failed", "refused", "crashed"] | None = None
    error: str | None = None


class StoredJob(StrictModel, strict=True):
    """See `acsearch.study.attempts.Submission`."""

    cluster: str
    job: str
    log: str
    submitted: IsoTime


_TYPES: dict[str, TypeAdapter[Any]] = {
    ABOUT: TypeAdapter(About),
    BUDGET: TypeAdapter(Annotated[int, Field(strict=True, ge=1)]),
    RUNS: TypeAdapter(dict[str, Annotated[str, Field(strict=True)]]),
}
_TYPES_OF_WORK: dict[str, TypeAdapter[Any]] = {
    ATTEMPTS: TypeAdapter(list[StoredAttempt]),
    JOB: TypeAdapter(StoredJob),
}
_SCORES = TypeAdapter(Scores)


def _type_of(key: str) -> TypeAdapter[Any] | None:
    """The type of a study's attribute; None for one that acsearch does not read."""
    if key.startswith(SCORE) and _WORK.fullmatch(key):
        return _SCORES
    for prefix, kind in _TYPES_OF_WORK.items():
        if key.startswith(prefix) and _WORK.fullmatch(key.removeprefix(prefix)):
            return kind
    if key.startswith((SCORE, *_TYPES_OF_WORK)):
        raise ValueError(f"{abbreviate(key)}: names no piece of work")
    return _TYPES.get(key)


def is_ours(key: str) -> bool:
    """Whether acsearch reads a study's attribute of this name."""
    return _type_of(key) is not None


def is_local(key: str) -> bool:
    """Whether an attribute is about the MLflow server, the machines or the cluster here, and is in no bundle."""
    return key == RUNS or key.startswith((ATTEMPTS, JOB))


def parse_attribute(key: str, value: Any) -> Any:
    """An attribute of a study as what it stands for.

    Args:
        key: its name.
        value: its value, as JSON gives it.

    Returns:
        An `About`, the budget, the runs, `Scores`, a list of `StoredAttempt` or a `StoredJob`; for an attribute of
        another name its value.

    Raises:
        ValueError: it is not what acsearch writes; the message names the attribute.
    """
    kind = _type_of(key)
    try:
        return value if kind is None else kind.validate_python(value)
    except ValidationError as error:
        raise ValueError(first_error(error, key)) from error


class TrialAttributes(_Open):
    """The attributes of a trial. A trial that is complete has all but `surplus`."""

    representation: str | None = None
    surplus: bool = False
    points: dict[str, Number] | None = None
    errors: dict[str, Positive | None] | None = None
    seconds: Positive | None = None
    checkpoint: str | None = None
    scores: dict[str, Number] | None = None

    @property
    def missing(self) -> list[str]:
        """What a finished trial would have and this one lacks."""
        return sorted(MEASURED - self.model_fields_set)

    @property
    def stored(self) -> dict[str, Any]:
        """The attributes as they are stored."""
        return self.model_dump(exclude_unset=True)


class TrialContent(StrictModel, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"):
    """A trial as a storage holds it.

    Attributes:
        number: Number of the trial.
        state: State in Optuna.
        value: The objective; None unless the trial is complete.
        candidate: Row of the candidate; None before it was proposed.
        pool: Number of candidates; None before one was proposed.
        started: Time of start, in UTC; Optuna and bundles of earlier versions give local times without a zone.
        finished: Time of end; None while the trial runs.
        attributes: The user attributes of the trial.
    """

    number: int = Field(ge=0)
    state: Literal["RUNNING", "COMPLETE", "FAIL", "WAITING", "PRUNED"]
    value: float | None
    candidate: int | None = Field(ge=0)
    pool: int | None
    started: StoredTime | None
    finished: StoredTime | None
    attributes: TrialAttributes

    @model_validator(mode="after")
    def _whole(self) -> TrialContent:
        if (self.candidate is None) != (self.pool is None) or (self.candidate or 0) >= (self.pool or 1):
            raise ValueError(f"trial {self.number}: candidate {self.candidate} of {self.pool}")
        unfinished, complete = self.state in ("RUNNING", "WAITING"), self.state == "COMPLETE"
        has_value = self.value is not None and self.state != "PRUNED"
        if complete != has_value or unfinished != (self.finished is None):
            raise ValueError(f"trial {self.number}: {self.state}, value {self.value}, finished {self.finished}")
        if complete and self.candidate is None:
            raise ValueError(f"trial {self.number}: complete, without a candidate")
        if complete and self.attributes.missing:
            raise ValueError(f"trial {self.number}: complete, without {', '.join(self.attributes.missing)}")
        return self

    @property
    def counts(self) -> bool:
        """Whether the trial is a finetune, or may become one: not if it failed before its candidate was proposed."""
        return self.state != "FAIL" or (self.attributes.representation is not None and not self.attributes.surplus)


class StudyContent(StrictModel, strict=True, allow_inf_nan=True, ser_json_inf_nan="constants"):
    """A study as a storage holds it at one moment.

    Attributes:
        name: Name of the study.
        attributes: The user attributes of the study; empty for a study that does not exist.
        trials: The trials, numbered from 0.
    """

    name: Name
    attributes: dict[str, Any] = {}
    trials: list[TrialContent] = []

    @model_validator(mode="after")
    def _consistent(self) -> StudyContent:
        for number, trial in enumerate(self.trials):
            if trial.number != number:
                raise ValueError(f"trial {number} is missing: trials are not numbered from 0 without gaps")
        for work in sorted({*self.attempts, *self.jobs, *(f"{TRIAL}{number}" for number in self._finetuned)}):
            if work.startswith(TRIAL) and int(work.removeprefix(TRIAL)) >= len(self.trials):
                raise ValueError(f"trial {work.removeprefix(TRIAL)} is missing, and was worked on")
        return self

    @cached_property
    def _typed(self) -> dict[str, Any]:
        return {key: parse_attribute(key, value) for key, value in self.attributes.items()}

    def _by_work(self, prefix: str) -> dict[str, Any]:
        return {key.removeprefix(prefix): one for key, one in self._typed.items() if key.startswith(prefix)}

    @property
    def _finetuned(self) -> Iterable[str]:
        """Numbers of the trials that have a run in the MLflow record."""
        found = (re.fullmatch(rf"finetune/{_NUMBER}", key) for key in self.runs)
        return [match[1] for match in found if match]

    @property
    def about(self) -> About | None:
        """What the study was started with; None where it was never started."""
        return self._typed.get(ABOUT)

    @property
    def budget(self) -> int:
        """Number of finetunes that the study may do."""
        return int(self._typed.get(BUDGET, 0))

    @property
    def runs(self) -> dict[str, str]:
        """The runs of the MLflow record."""
        return dict(self._typed.get(RUNS, {}))

    @property
    def finetunes(self) -> list[TrialContent]:
        """The trials that count towards the budget, in order: also those that failed when they had been begun."""
        attempts = self.attempts
        return [one for one in self.trials if one.counts or attempts.get(f"{TRIAL}{one.number}")]

    @property
    def scores(self) -> dict[int, Scores]:
        """A and C by row of the candidate."""
        return {int(row): one for row, one in self._by_work(SCORE).items()}

    @property
    def attempts(self) -> dict[str, list[StoredAttempt]]:
        """Attempts by piece of work."""
        return self._by_work(ATTEMPTS)

    @property
    def jobs(self) -> dict[str, StoredJob]:
        """The job that a piece of work was last handed to."""
        return self._by_work(JOB)


def content_of(name: str, attributes: dict[str, Any], trials: Iterable[FrozenTrial]) -> StudyContent:
    """A study as Optuna gives it.

    Args:
        name: Name of the study.
        attributes: Its user attributes. They are to be read before the trials, so that they name none that comes later.
        trials: All its trials.

    Raises:
        ValueError: it is not as acsearch writes it.
    """
    found = sorted(map(_trial_content, trials), key=lambda trial: int(trial["number"]))
    return StudyContent.model_validate({"name": name, "attributes": attributes, "trials": found})


def _trial_content(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as `TrialContent` has it.

    Optuna reads the state first and the rest after it, so a trial that is being finished may run and have a value.
    """
    over = trial.state.is_finished()
    row, pool = trial.params.get(PARAMETER), None
    distribution = trial.distributions.get(PARAMETER)
    if isinstance(distribution, IntDistribution) and distribution.low == 0:
        pool = distribution.high + 1
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value if over else None,
        "candidate": None if pool is None else row,  # other kinds of candidates are not ours
        "pool": pool,
        "started": trial.datetime_start,
        "finished": trial.datetime_complete if over else None,
        "attributes": trial.user_attrs,
    }


def first_error(error: ValidationError, *within: str) -> str:
    """The first problem of a validation error, on one line.

    Args:
        error: The error.
        within: Keys of what was validated.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, [*within, *first["loc"]]))
    where = where if where.isprintable() and len(where) < 200 else abbreviate(where)
    if first["type"] == "value_error":  # our own checks say what was given
        return f"{where}: {first['ctx']['error']}" if where else str(first["ctx"]["error"])
    return f"{where or 'the whole'}: {first['msg']}"
