"""Export a study from a storage and a work folder into one file, and import it on a cluster without a common network.

A bundle holds the attributes and trials of the study, and the files of the work folder that belong to its candidates:
measured A and C, the metrics of training, and the results and samples of evaluations. Checkpoints are large and are
included on request: the committed result of each stage, or its last committed checkpoint where there is no result yet.
The MLflow record is not included: `acsearch study resume` writes it again from the rest.

An import checks the whole bundle before it writes anything. Then it writes the files of the work folder, whose names
say what their content depends on, so that files never conflict; then scores and trials; and last, for a study that is
new here, the attribute that makes it a study. An import that was killed is completed by running it again. Nothing is
overwritten, except for a log that is longer in the bundle. `acsearch.bundles.merge` says how two copies are merged.

An unfinished trial is exported as it is, and the importing side continues it within the same budget. The exporting side
should not resume it then, or the candidate is finetuned twice.
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

from acsearch.bundles import work_files
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
    """What an export wrote.

    Attributes:
        study: The study as it was exported.
        files: Number of files of the work folder.
        in_progress: Numbers of the trials that a process here was working on.
    """

    study: StudyExport
    files: int
    in_progress: tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """What an import changed.

    Attributes:
        name: Name of the study.
        changes: What was written to the storage.
        files: Number of files that were added to the work folder.
    """

    name: str
    changes: Changes
    files: int


def export_study(home: Home, name: str, file: Path, *, checkpoints: bool = False) -> Exported:
    """Write a study into a new file.

    Args:
        home: Where the study is.
        name: Name of the study.
        file: The bundle to write, which must not exist.
        checkpoints: Whether to include trained weights.

    Raises:
        StudyError: there is no such study, or its storage cannot be used.
        BundleError: the file exists or cannot be written, or a file changed while it was read.
        TrainingError: a checkpoint is damaged.
    """
    check_name(name)
    storage, locks = home.open_storage(create=False), home.claims(name)
    study = StoredStudy.open(storage, locks, name)
    table = study.snapshot().table  # raises if what it searches has changed
    with locks.exclusive("ask"):  # so that no trial is being created
        export = read_export(storage, name)
        in_progress = tuple(
            t.number for t in export.trials if t.state == "RUNNING" and locks.held(f"{TRIAL}{t.number}")
        )
    members: dict[str, bytes | Path] = {STUDY: export.model_dump_json(indent=1).encode()}
    artifacts, work = make_artifacts(study.source, home.work, home.store), home.work.absolute()
    finetuned = {trial.candidate for trial in export.trials if trial.candidate is not None}
    for candidate in range(len(table.representations)):
        artifacts.fetch(candidate, finetuned=candidate in finetuned, checkpoints=checkpoints)
    files = work_files.study_files(artifacts, len(table.representations), finetuned, checkpoints=checkpoints)
    pack(file, name, socket.gethostname(), members | {work_files.member_name(path, work): path for path in files})
    return Exported(export, len(files), in_progress)


def import_study(home: Home, file: Path, *, study: str | None = None, budget: int = 0) -> Imported:
    """Add the study of a bundle to a storage and work folder, or merge it into the copy that is there.

    Args:
        home: Where to import to.
        file: The bundle.
        study: The study file here, where study file, table or prior are not at the paths that the bundle gives.
        budget: Finetunes to allow, where both copies together did more than the budget of either; 0 for none.

    Raises:
        BundleError: the file is damaged, contradicts the study here, or concerns work that is in progress here.
        ConfigError: the budget is out of range.
        StudyError: the storage cannot be used.
    """
    with Archive(file, work_files.free_space(home.work)) as archive:
        there = _parse(archive)
        work_files.check_checkpoints(archive)
        here = _read_local(home, there.name) or StudyExport(name=there.name)
        about = here.about or _relocate(there.about or {}, study)
        if here.about is None:
            there = there.model_copy(update={"attributes": there.attributes | {ABOUT: about}})
        table = load_source(Source(**about["table"]["source"]))
        merge(here, there, table, budget)  # so that nothing is written where it is refused
        storage, locks = home.open_storage(create=True), home.claims(there.name)
        with ExitStack() as claims:
            claims.enter_context(locks.exclusive("start"))
            claims.enter_context(locks.exclusive("ask"))
            changes = merge(_read_local(home, there.name) or here, there, table, budget)
            for claim in changes.claims:
                if not claims.enter_context(locks.claim(claim)):
                    raise BundleError(
                        f"study {there.name!r}: somebody works on {claim} here right now; import it later"
                    )
            files = work_files.extract(archive, home.work.absolute(), claims)
            locks.confirm()
            write_changes(storage, there.name, changes, home.work.absolute())
    return Imported(there.name, changes, files)


# -- in and out of the storage -----------------------------------------------------------------------------------------


def read_export(storage: optuna.storages.BaseStorage, name: str) -> StudyExport:
    """Read everything that a storage holds of a study.

    Raises:
        BundleError: the study is not as acsearch writes it.
    """
    study = optuna.load_study(study_name=name, storage=storage)
    ours = (RUNS, ATTEMPTS, JOB)  # these refer to the MLflow server, the machines and the cluster here
    attributes = {key: value for key, value in sorted(study.user_attrs.items()) if not key.startswith(ours)}
    try:
        trials = tuple(_export_trial(trial) for trial in study.get_trials(deepcopy=False))
        return StudyExport(name=name, attributes=attributes, trials=trials)
    except ValidationError as error:
        raise BundleError(f"study {name!r}: not as acsearch writes it: {first_error(error)}") from error


def _export_trial(trial: FrozenTrial) -> TrialExport:
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
    """Write the changes of an import to a storage.

    The attribute that says what a study was started with is written last: without it, the study was never started.

    Args:
        storage: The storage.
        name: Name of the study, which is created where it does not exist.
        changes: The changes.
        work: The work folder, for the paths of checkpoints.
    """
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    for key, value in changes.attributes.items():
        if key != ABOUT:
            study.set_user_attr(key, value)
    for mine, one in changes.finish:
        trial = study.get_trials(deepcopy=False)[mine.number]._trial_id
        if mine.candidate is None and one.candidate is not None and one.pool is not None:
            storage.set_trial_param(trial, PARAMETER, one.candidate, IntDistribution(0, one.pool - 1))
        for key, value in _localised(one, work).items():
            storage.set_trial_user_attr(trial, key, value)
        if one.state != "RUNNING":
            study.tell(mine.number, one.value, TrialState[one.state], skip_if_finished=True)
    for one in changes.add:
        proposed = one.candidate is not None and one.pool is not None
        study.add_trial(
            FrozenTrial(
                number=one.number,
                trial_id=-1,  # the storage assigns both
                state=TrialState[one.state],
                value=one.value,
                datetime_start=one.started,
                datetime_complete=one.finished,
                params={PARAMETER: one.candidate} if proposed else {},
                distributions={PARAMETER: IntDistribution(0, one.pool - 1)} if one.pool is not None else {},
                user_attrs=_localised(one, work),
                system_attrs={},
                intermediate_values={},
            )
        )
    if ABOUT in changes.attributes:
        study.set_user_attr(ABOUT, changes.attributes[ABOUT])


def _localised(trial: TrialExport, work: Path) -> dict[str, Any]:
    """The attributes of a trial, with the path of its checkpoint in this work folder."""
    place = trial.attributes.get(CHECKPOINT)
    moved = {CHECKPOINT: str(work / place)} if isinstance(place, str) and _COMMITTED.fullmatch(place) else {}
    return trial.attributes | moved


def _read_local(home: Home, name: str) -> StudyExport | None:
    """The study of this name in the storage here, None where there is none."""
    try:
        storage = home.open_storage(create=False)
    except AcsearchError:
        return None  # an error of creating it comes later
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return read_export(storage, name) if name in names else None


def _parse(archive: Archive) -> StudyExport:
    try:
        export = StudyExport.model_validate_json(archive.texts[STUDY])
    except ValidationError as error:
        raise BundleError(f"{archive.path}: {STUDY}: {first_error(error)}") from error
    if export.name != archive.manifest.study:
        raise BundleError(f"{archive.path}: of study {archive.manifest.study!r}, and holds {export.name!r}")
    return export


def _relocate(about: dict[str, Any], study: str | None) -> dict[str, Any]:
    """What a study was started with, with the paths of its table and prior here, which must have the same content."""
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
