"""Studies between clusters that share no network: out of a storage and a work folder into one file, and back.

A bundle has the study's attributes and trials, and of the work folder what belongs to its candidates: measured A and C,
the metrics that training left, and the results and samples of evaluations. Checkpoints are large and come on request:
of each stage its committed result, or its last committed checkpoint where there is no result yet. The MLflow record is
not in it: `acsearch study resume` writes it again from all this.

What is imported has been checked as a whole before the first thing is written. Then come the files of the work folder,
each under a name that says what it depends on, so that none is in the way of another; then scores and trials, and last,
for a study that is new here, what makes it a study. An import that was killed is ended by the next. Nothing that is
here is overwritten, but for a log that goes on in the bundle. `acsearch.bundles.merge` says how two halves become one.

An unfinished trial goes along as it is, and who imports it takes it up at no further cost to the budget. The side that
it came from should let it be from then on: two that finetune the same candidate spend twice what it takes.
"""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from acsearch.bundles import work_files as workfiles
from acsearch.bundles.merge import Changes, StudyExport, TrialExport, merge
from acsearch.bundles.reader import Archive, first_error
from acsearch.bundles.writer import STUDY, pack
from acsearch.config.prior_file import load_prior
from acsearch.config.study_file import Source, load_source, load_study
from acsearch.errors import BundleError
from acsearch.law.prior import Prior
from acsearch.policies.sampler import PARAMETER
from acsearch.runners.registry import make_artifacts
from acsearch.storage.home import Home
from acsearch.study.checks import check_name
from acsearch.study.identity import FORMAT, digest
from acsearch.study.stored import ABOUT, ATTEMPTS, CHECKPOINT, JOB, RUNS, TRIAL, StoredStudy
from acsearch.tables.table import Table
from trainers.errors import AcsearchError

_COMMITTED = re.compile(r"(?:.*/)?(stages/[0-9a-f]{24}/result)")


@dataclass(frozen=True)
class Exported:
    """What went into a bundle. working: trials that somebody here was at."""

    half: StudyExport
    files: int
    working: tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """What came of a bundle. files: of the work folder, that were not there."""

    name: str
    changes: Changes
    files: int


def export_study(home: Home, name: str, file: Path, *, checkpoints: bool = False) -> Exported:
    """Write a study into a new file. Raises StudyError, BundleError, and TrainingError for a broken checkpoint."""
    check_name(name)
    storage, locks = home.open_storage(create=False), home.claims(name)
    study = StoredStudy.open(storage, locks, name)
    table = study.snapshot().table  # raises if what it searches has changed
    with locks.exclusive("ask"):  # no trial is half asked for
        half = read_export(storage, name)
        working = tuple(t.number for t in half.trials if t.state == "RUNNING" and locks.held(f"{TRIAL}{t.number}"))
    members: dict[str, bytes | Path] = {STUDY: half.model_dump_json(indent=1).encode()}
    artifacts, work = make_artifacts(study.source, home.work, home.store), home.work.absolute()
    finetuned = {trial.candidate for trial in half.trials if trial.candidate is not None}
    for candidate in range(len(table.representations)):
        artifacts.fetch(candidate, finetuned=candidate in finetuned, checkpoints=checkpoints)
    files = workfiles.belonging(artifacts, len(table.representations), finetuned, checkpoints=checkpoints)
    pack(file, name, socket.gethostname(), members | {workfiles.member(path, work): path for path in files})
    return Exported(half, len(files), working)


def import_study(home: Home, file: Path, *, study: str | None = None, budget: int = 0) -> Imported:
    """Take a bundle's study, or what it knows of one that is here, into a storage and the work folder.

    study: the study file here, where that or its table or prior is not where it was.  budget: finetunes to allow.
    Raises BundleError when the file is not whole, contradicts what is here, or is about what somebody works on now.
    """
    with Archive(file, workfiles.room(home.work)) as archive:
        there = _parse(archive)
        workfiles.check_marks(archive)
        here = _here(home, there.name) or StudyExport(name=there.name)
        about = here.about or _at_home(there.about or {}, study)
        if here.about is None:
            there = there.model_copy(update={"attributes": there.attributes | {ABOUT: about}})
        table = load_source(Source(**about["table"]["source"]))
        merge(here, there, table, budget)  # what is refused is refused before anything is made
        storage, locks = home.open_storage(create=True), home.claims(there.name)
        with ExitStack() as claims:
            claims.enter_context(locks.exclusive("start"))
            claims.enter_context(locks.exclusive("ask"))
            changes = merge(_here(home, there.name) or here, there, table, budget)
            for claim in changes.claims:
                if not claims.enter_context(locks.claim(claim)):
                    raise BundleError(
                        f"study {there.name!r}: somebody works on {claim} here right now; import it later"
                    )
            files = workfiles.place(archive, home.work.absolute(), claims)
            locks.confirm()
            write_changes(storage, there.name, changes, home.work.absolute())
    return Imported(there.name, changes, files)


# -- in and out of the storage -----------------------------------------------------------------------------------------


def read_export(storage: optuna.storages.BaseStorage, name: str) -> StudyExport:
    """All that a storage holds of a study. Raises BundleError for what acsearch has not written."""
    study = optuna.load_study(study_name=name, storage=storage)
    ours = (RUNS, ATTEMPTS, JOB)  # of our MLflow server, our machines, our cluster
    attributes = {key: value for key, value in sorted(study.user_attrs.items()) if not key.startswith(ours)}
    try:
        trials = tuple(_half_trial(trial) for trial in study.get_trials(deepcopy=False))
        return StudyExport(name=name, attributes=attributes, trials=trials)
    except ValidationError as error:
        raise BundleError(f"study {name!r}: not as acsearch writes it: {first_error(error)}") from error


def _half_trial(trial: FrozenTrial) -> TrialExport:
    distribution = trial.distributions.get(PARAMETER)
    attributes = dict(sorted(trial.user_attrs.items()))
    if found := _COMMITTED.fullmatch(attributes.get(CHECKPOINT) or ""):
        attributes[CHECKPOINT] = found[1]
    return TrialExport.model_validate(
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            "candidate": trial.params.get(PARAMETER),
            "pool": distribution.high + 1 if isinstance(distribution, IntDistribution) else None,
            "started": trial.datetime_start,
            "finished": trial.datetime_complete,
            "attributes": attributes,
        }
    )


def write_changes(storage: optuna.storages.BaseStorage, name: str, changes: Changes, work: Path) -> None:
    """Bring a study up to date, or make it. A study without its first attribute was never started, so that is last."""
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    for key, value in changes.attributes.items():
        if key != ABOUT:
            study.set_user_attr(key, value)
    for mine, one in changes.finish:
        trial = study.get_trials(deepcopy=False)[mine.number]._trial_id
        if mine.candidate is None and one.candidate is not None and one.pool is not None:
            storage.set_trial_param(trial, PARAMETER, one.candidate, IntDistribution(0, one.pool - 1))
        for key, value in _local(one, work).items():
            storage.set_trial_user_attr(trial, key, value)
        if one.state != "RUNNING":
            study.tell(mine.number, one.value, TrialState[one.state], skip_if_finished=True)
    for one in changes.add:
        proposed = one.candidate is not None and one.pool is not None
        study.add_trial(
            FrozenTrial(
                number=one.number,
                trial_id=-1,  # the storage gives both
                state=TrialState[one.state],
                value=one.value,
                datetime_start=one.started,
                datetime_complete=one.finished,
                params={PARAMETER: one.candidate} if proposed else {},
                distributions={PARAMETER: IntDistribution(0, one.pool - 1)} if one.pool is not None else {},
                user_attrs=_local(one, work),
                system_attrs={},
                intermediate_values={},
            )
        )
    if ABOUT in changes.attributes:
        study.set_user_attr(ABOUT, changes.attributes[ABOUT])


def _local(trial: TrialExport, work: Path) -> dict[str, Any]:
    """A trial's attributes with its checkpoint where it is, or will be, in this work folder."""
    place = trial.attributes.get(CHECKPOINT)
    moved = {CHECKPOINT: str(work / place)} if isinstance(place, str) and _COMMITTED.fullmatch(place) else {}
    return trial.attributes | moved


def _here(home: Home, name: str) -> StudyExport | None:
    """The half that is here, if there is one."""
    try:
        storage = home.open_storage(create=False)
    except AcsearchError:
        return None  # whether it can be made will be seen when it is
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return read_export(storage, name) if name in names else None


def _parse(archive: Archive) -> StudyExport:
    try:
        half = StudyExport.model_validate_json(archive.texts[STUDY])
    except ValidationError as error:
        raise BundleError(f"{archive.path}: {STUDY}: {first_error(error)}") from error
    if half.name != archive.manifest.study:
        raise BundleError(f"{archive.path}: of study {archive.manifest.study!r}, and holds {half.name!r}")
    return half


def _at_home(about: dict[str, Any], study: str | None) -> dict[str, Any]:
    """What a study is about, with the places of its table and prior here. Raises BundleError when they are not its."""
    try:
        parts = {"table": dict(about["table"]), "prior": dict(about["prior"])}
        if study is not None:
            config = load_study(study)
            parts["table"]["source"], parts["prior"]["source"] = vars(config.source), config.file.prior
        found: dict[str, Table | Prior] = {
            "table": load_source(Source(**parts["table"]["source"])),
            "prior": load_prior(parts["prior"]["source"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the bundle does not say what its study searches: {error}") from error
    except AcsearchError as error:
        raise BundleError(f"{error}; give the study's folder here with --study") from error
    for part, value in found.items():
        if digest(value, about.get("format", FORMAT)) != parts[part].get("digest"):
            raise BundleError(f"the {part} here is not the one that the study was started with; --study gives another")
    return about | parts
