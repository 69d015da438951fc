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

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from acsearch.bayes import objective_weights
from acsearch.config import NAME, Source, StudyConfig, StudyFile, load_prior, load_source
from acsearch.errors import ConfigError, StudyError
from acsearch.finetunes import Finetunes, Observation, is_scored, with_scores
from acsearch.law import Features
from acsearch.locks import Claims
from acsearch.policies import make_policy, resolve
from acsearch.prior import Prior
from acsearch.sampler import PARAMETER, SCORES, CandidateSampler
from acsearch.snapshot import FinetuneRecord, Snapshot, Step
from acsearch.table import Table

_FORMAT = 2
_ABOUT, _BUDGET, _SURPLUS, _SCORE, _RUNS = "acsearch", "budget", "surplus", "score-", "runs"
_POINTS, _ERRORS, _SECONDS, _CHECKPOINT, _NAME = "points", "errors", "seconds", "checkpoint", "representation"


@dataclass(frozen=True)
class Event:
    """Something that a person watching wants to hear about.

    kind: scoring, scored, proposed, resumed, finetuning, finetuned, waiting, or doing, of which `text` tells.
    """

    kind: str
    trial: int
    representation: str
    step: Step | None = None
    text: str = ""


Watch = Callable[[Event], None]
Part = TypeVar("Part", Table, Prior)


class Study:
    """A study in a storage. Made by `Study.start` or `Study.open`."""

    def __init__(self, storage: optuna.storages.BaseStorage, name: str, locks: Claims) -> None:
        self._study = optuna.load_study(study_name=name, storage=storage)
        self.name = name
        self.locks = locks
        self._steps: dict[tuple[int, ...], Step] = {}
        self._scored: Table | None = None

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
                if budget > there.budget:
                    there.raise_budget(budget)
                return there
            check_free(storage, locks, name)
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
            study.set_user_attr(_BUDGET, budget)
            about = {
                "format": _FORMAT,
                "title": file.title,
                "table": {"source": vars(config.source), "digest": digest(table)},
                "objective": file.objective,
                "policy": resolve(file.policy),
                "prior": {"source": file.prior, "digest": digest(prior)},
                "seed": file.seed,
                "started": datetime.now().isoformat(),
            }
            study.set_user_attr(_ABOUT, about)  # last: a study without it was never started
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
        with self.locks.exclusive("ask"):
            limit = len(self._table.representations)
            if not self.budget <= budget <= limit:
                raise ConfigError(f"--budget {budget}: the study has {self.budget}; choose {self.budget} to {limit}")
            self._study.set_user_attr(_BUDGET, budget)

    # -- the walk of one candidate -------------------------------------------------------------------------------------

    def run(self, finetunes: Finetunes, watch: Watch) -> None:
        """Spend what is left of the budget, one finetune after the other; taking up what a dead controller left."""
        self.score(finetunes, watch)
        while True:
            with self._next_trial(watch) as trial:
                if trial is None:
                    return
                candidate = trial.suggest_int(PARAMETER, 0, len(self._table.representations) - 1)
                name = self._table.representations[candidate]
                say = partial(self._say, watch, trial.number, name)
                watch(Event("finetuning", trial.number, name))
                run = self._runs.get(f"finetune/{trial.number}")
                self._tell(trial, finetunes.finetune(candidate, trial.number, run, say))
            watch(Event("finetuned", trial.number, name, self.snapshot().steps[-1]))

    def note_runs(self, runs: dict[str, str]) -> None:
        """Remember which runs of the MLflow record are ours; see `acsearch.track.Record.record`."""
        if runs != self._runs:
            self._study.set_user_attr(_RUNS, runs)

    @property
    def _runs(self) -> dict[str, str]:
        return dict(self._study.user_attrs.get(_RUNS, {}))

    def score(self, finetunes: Finetunes, watch: Watch) -> None:
        """Measure A and C of every candidate that has none yet; those that another controller is at come last."""
        names, told = self._pool.representations, set(range(len(self._pool.representations))) - set(self.unscored)
        for wait in (False, True):
            for row in self.unscored:
                with ExitStack() as claim:
                    lock = f"{_SCORE}{row}"
                    if wait:
                        claim.enter_context(self.locks.exclusive(lock))
                    elif not claim.enter_context(self.locks.claim(lock)):
                        continue
                    if row in self.unscored:  # else somebody was quicker
                        watch(Event("scoring", row, names[row]))
                        scores = finetunes.score(row, partial(self._say, watch, row, names[row]))
                        self.locks.confirm()
                        self._study.set_user_attr(lock, asdict(scores))
                for done in sorted(set(range(len(names))) - set(self.unscored) - told):
                    told.add(done)
                    watch(Event("scored", done, names[done]))

    def _say(self, watch: Watch, number: int, name: str, text: str) -> None:
        self.locks.confirm(ask=False)
        watch(Event("doing", number, name, text=text))

    @contextmanager
    def _next_trial(self, watch: Watch) -> Iterator[Trial | None]:
        """A trial of our own with its candidate proposed, its lock held; None when nothing is left to start."""
        with ExitStack() as claim:
            with self.locks.exclusive("ask"):
                trial = self._orphan(claim, watch) or self._ask(claim, watch)
            yield trial

    def _orphan(self, claim: ExitStack, watch: Watch) -> Trial | None:
        """The first running trial within the budget that no living controller works on."""
        for place, trial in enumerate(self._trials()):
            if trial.state != TrialState.RUNNING or place >= self.budget:
                continue
            with ExitStack() as attempt:
                ours = attempt.enter_context(self.locks.claim(f"trial-{trial.number}"))
                if not ours:
                    watch(Event("waiting", trial.number, trial.user_attrs.get(_NAME, "a candidate")))
                elif self._trials()[place].state == TrialState.RUNNING:  # else its owner finished it just now
                    claim.enter_context(attempt.pop_all())
                    return self._propose(Trial(self._study, trial._trial_id), "resumed", watch)
        return None

    def _ask(self, claim: ExitStack, watch: Watch) -> Trial | None:
        """A new trial, unless the budget has been spent."""
        if len(self._trials()) >= self.budget:
            return None
        trial = self._study.ask()
        place = sum(other.number < trial.number for other in self._trials())
        if place >= self.budget:  # only if somebody asked without our lock; the lower numbers win
            trial.set_user_attr(_SURPLUS, True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        claim.enter_context(self.locks.exclusive(f"trial-{trial.number}"))
        return self._propose(trial, "proposed", watch)

    def _propose(self, trial: Trial, kind: str, watch: Watch) -> Trial:
        """Let the policy choose the trial's candidate; one that was chosen before a crash stays."""
        self._study.sampler = self._sampler
        representation = self._table.representations[
            trial.suggest_int(PARAMETER, 0, len(self._table.representations) - 1)
        ]
        trial.set_user_attr(_NAME, representation)
        watch(Event(kind, trial.number, representation))
        return trial

    def _tell(self, trial: Trial, observation: Observation) -> None:
        table = self._table
        values = np.array([observation.scores[name] for name in table.benchmarks])
        scaled = (values - table.floor) / table.span
        self.locks.confirm()
        trial.set_user_attr(_POINTS, observation.scores)
        trial.set_user_attr(_ERRORS, observation.errors)
        trial.set_user_attr(_SECONDS, observation.seconds)
        trial.set_user_attr(_CHECKPOINT, observation.checkpoint)
        trial.set_user_attr(SCORES, dict(zip(table.benchmarks, scaled.tolist(), strict=True)))
        objective = float(scaled @ objective_weights(table.benchmarks, self._about["objective"]))
        self._study.tell(trial.number, objective, skip_if_finished=True)

    # -- what the storage holds ----------------------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        return int(self._study.user_attrs[_BUDGET])

    @cached_property
    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = self._study.user_attrs[_ABOUT]
        if about.get("format") != _FORMAT:
            raise StudyError(
                f"study {self.name!r} was written by another version of acsearch (format {about.get('format')})"
            )
        return about

    @property
    def source(self) -> Source:
        """Where the candidates come from."""
        return Source(**self._about["table"]["source"])

    @cached_property
    def _pool(self) -> Table:
        """The candidates as they were when the study was started."""
        source = self.source
        what = "training" if source.study else "table"
        return self._unchanged("table", load_source(source), f"{what} {source.study or source.table}")

    @property
    def _table(self) -> Table:
        """The candidates with the A and C that have been measured so far."""
        if self._scored is None:
            prefix = len(_SCORE)
            attributes = self._study.user_attrs.items()
            scores = {int(key[prefix:]): value for key, value in attributes if key.startswith(_SCORE)}
            table = with_scores(self._pool, scores)
            if not is_scored(table):
                return table
            self._scored = table  # nothing is measured twice
        return self._scored

    @property
    def unscored(self) -> list[int]:
        """Candidates whose A is not known yet."""
        return np.flatnonzero(np.isnan(self._table.alignment[:, 0])).tolist()

    @cached_property
    def _prior(self) -> Prior:
        source = self._about["prior"]["source"]
        return self._unchanged("prior", load_prior(source), f"prior {source}")

    def _unchanged(self, what: str, part: Part, name: str) -> Part:
        if digest(part) != self._about[what]["digest"]:
            raise StudyError(f"study {self.name!r}: the {name} has changed since the study was started")
        return part

    @cached_property
    def _sampler(self) -> CandidateSampler:
        table = self._table
        policy = make_policy(self._about["policy"], self._prior)
        weights = objective_weights(table.benchmarks, self._about["objective"])
        return CandidateSampler(policy, Features.of(table), table.benchmarks, weights, self._about["seed"])

    def _trials(self) -> list[FrozenTrial]:
        """All trials but those beyond the budget, in order."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if not trial.user_attrs.get(_SURPLUS)]

    def snapshot(self) -> Snapshot:
        """The study as it is now."""
        about, runs = self._about, self._runs
        return Snapshot(
            name=self.name,
            title=about["title"],
            table=self._table,
            objective=about["objective"],
            policy=about["policy"],
            prior=self._prior,
            seed=about["seed"],
            budget=self.budget,
            started=datetime.fromisoformat(about["started"]),
            finetunes=tuple(self._record(trial, runs) for trial in self._trials()),
            memory=self._steps,
        )

    def _record(self, trial: FrozenTrial, runs: dict[str, str]) -> FinetuneRecord:
        state = trial.state.name.lower()
        if trial.state == TrialState.RUNNING and not self.locks.held(f"trial-{trial.number}"):
            state = "interrupted"
        complete = trial.state == TrialState.COMPLETE
        return FinetuneRecord(
            trial=trial.number,
            candidate=trial.params.get(PARAMETER),
            representation=trial.user_attrs.get(_NAME, ""),
            state=state,
            points=trial.user_attrs[_POINTS] if complete else {},
            errors=trial.user_attrs[_ERRORS] if complete else {},
            seconds=trial.user_attrs[_SECONDS] if complete else None,
            checkpoint=trial.user_attrs[_CHECKPOINT] if complete else None,
            run=runs.get(f"finetune/{trial.number}"),
            objective=trial.value if complete else None,
            started=trial.datetime_start or datetime.fromisoformat(self._about["started"]),
            finished=trial.datetime_complete,
        )


def check_start(file: StudyFile, table: Table, prior: Prior, budget: int) -> None:
    """Raises ConfigError or DefinitionError for a study whose parts do not fit together."""
    if not 1 <= budget <= len(table.representations):
        raise ConfigError(f"--budget {budget}: must be between 1 and the {len(table.representations)} candidates")
    if file.objective != "mean" and file.objective not in table.benchmarks:
        raise ConfigError(f"objective {file.objective!r}: neither 'mean' nor one of {', '.join(table.benchmarks)}")
    prior.check(table.sheet)
    make_policy(file.policy, prior)


def check_free(storage: optuna.storages.BaseStorage, locks: Claims, name: str) -> None:
    """Raises StudyError when a study of this name exists, saying how to go on with it."""
    if exists(storage, name):
        there = Study(storage, name, locks).snapshot()
        raise StudyError(
            f"study {name!r} exists, {len(there.finished)} of {there.budget} finetunes done: go on with "
            f"acsearch study resume {name}, or choose another --name"
        )


def check_name(name: str) -> None:
    """Raises StudyError for what cannot be a study's name."""
    if not re.fullmatch(NAME, name):
        raise StudyError(f"{name!r} is not a study's name: letters, digits, '.', '_' and '-', 100 at most")


def exists(storage: optuna.storages.BaseStorage, name: str) -> bool:
    """Whether a study of this name has been started; one that a crash left half-written has not."""
    return any(summary.study_name == name for summary in summaries(storage))


def summaries(storage: optuna.storages.BaseStorage) -> list[optuna.study.StudySummary]:
    """The acsearch studies of a storage, oldest first."""
    return [one for one in optuna.get_all_study_summaries(storage) if _ABOUT in one.user_attrs]


def digest(part: Table | Prior) -> str:
    """Fingerprint of all that a study reads from a table or a prior."""
    content: object = part
    if isinstance(part, Table):
        arrays = (part.scores.tobytes(), part.alignment.tobytes(), part.correspondence.tobytes())
        content = (part.representations, part.sheet, *arrays)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
