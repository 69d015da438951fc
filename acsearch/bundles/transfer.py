"""Export a study from a storage and a work folder into one file, and import it on a cluster without a common network.

A bundle holds the attributes and trials of the study, and the files of the work folder that belong to its candidates:
measured A and C, the metrics of training, and the results and samples of evaluations. Checkpoints are large and are
included on request: the committed result of each stage, or its last committed checkpoint where there is no result yet.
The MLflow record is not included: `acsearch study resume` writes it again from the rest.

An import checks the whole bundle before it writes anything. Then it writes the files of the work folder, whose names
say what their content depends on, so that files never conflict; and then all of the study in one transaction of the
storage, which is committed if the study can be read again. So an import that fails or is killed leaves the storage as
it was; files that it wrote before stay in the work folder, and are used by the next one. Nothing is overwritten, except
for a log that is longer in the bundle. `acsearch.bundles.merge` says how two copies are merged.

An unfinished trial is exported as it is, and the importing side continues it within the same budget. The exporting side
should not resume it then, or the candidate is finetuned twice.
"""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from acsearch.bundles import work_files
from acsearch.bundles.merge import RESULT, Changes, check_export, merge
from acsearch.bundles.reader import Archive
from acsearch.bundles.writer import STUDY, pack
from acsearch.config.prior_file import load_prior
from acsearch.config.study_file import Source, load_source, load_study
from acsearch.errors import BundleError
from acsearch.law.prior import Prior
from acsearch.policies.registry import make_policy
from acsearch.policies.sampler import PARAMETER
from acsearch.runners.registry import make_artifacts
from acsearch.storage.home import Home
from acsearch.storage.transaction import one_transaction
from acsearch.study.checks import check_name
from acsearch.study.identity import digest
from acsearch.study.schema import (
    ABOUT,
    CHECKPOINT,
    TRIAL,
    StudyContent,
    TrialContent,
    content_of,
    first_error,
    is_local,
)
from acsearch.study.stored import StoredStudy, exists
from acsearch.study.times import without_zone
from acsearch.study.validation import reading
from acsearch.tables.table import Table
from trainers.errors import AcsearchError
from trainers.utils.strict_yaml import abbreviate

_COMMITTED = re.compile(rf"(?:.*/)?({RESULT.pattern})")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        study: The study as it was exported.
        files: Number of files of the work folder.
        in_progress: Numbers of the trials that a process here was working on.
    """

    study: StudyContent
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
        check_export(export, table)
        in_progress = tuple(
            t.number for t in export.trials if t.state == "RUNNING" and locks.held(f"{TRIAL}{t.number}")
        )
    members: dict[str, bytes | Path] = {STUDY: export.model_dump_json(indent=1, exclude_unset=True).encode()}
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
        work_files.check(archive)
        here = _read_local(home, there.name) or StudyContent(name=there.name)
        if here.about is None:
            there = _relocate(there, study)
        about = here.about or there.about
        assert about is not None
        table = load_source(Source(**about.table.source.model_dump()))
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
            with one_transaction(storage) as transaction:
                write_changes(transaction, there.name, changes, home.work.absolute())
                StoredStudy.open(transaction, locks, there.name).snapshot()  # raises where it cannot be gone on with
    return Imported(there.name, changes, files)


# -- in and out of the storage -----------------------------------------------------------------------------------------


def read_export(storage: optuna.storages.BaseStorage, name: str) -> StudyContent:
    """Read everything that a storage holds of a study, and that another place can use.

    Raises:
        StudyError: the study is not as acsearch writes it.
    """
    with reading(f"study {name!r}"):
        study = optuna.load_study(study_name=name, storage=storage)
        attributes = study.user_attrs
        whole = content_of(name, attributes, study.get_trials(deepcopy=False))
    return StudyContent(
        name=name,
        attributes={key: value for key, value in sorted(attributes.items()) if not is_local(key)},
        trials=[_portable(trial) for trial in whole.trials],
    )


def _portable(trial: TrialContent) -> TrialContent:
    """The trial, with the path of its checkpoint relative to the work folder."""
    attributes = dict(sorted(trial.attributes.stored.items()))
    if found := _COMMITTED.fullmatch(attributes.get(CHECKPOINT) or ""):
        attributes[CHECKPOINT] = found[1]
    return trial.model_copy(update={"attributes": type(trial.attributes)(**attributes)})


def write_changes(storage: optuna.storages.BaseStorage, name: str, changes: Changes, work: Path) -> None:
    """Write the changes of an import to a storage.

    Args:
        storage: The storage, within a transaction.
        name: Name of the study, which is created where it does not exist.
        changes: The changes.
        work: The work folder, for the paths of checkpoints.
    """
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for key, value in changes.attributes.items():
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
                datetime_start=_without_zone(one.started or one.finished),
                datetime_complete=_without_zone(one.finished),
                params={PARAMETER: one.candidate} if proposed else {},
                distributions={PARAMETER: IntDistribution(0, one.pool - 1)} if one.pool is not None else {},
                user_attrs=_localised(one, work),
                system_attrs={},
                intermediate_values={},
            )
        )


def _without_zone(moment: datetime | None) -> datetime | None:
    return None if moment is None else without_zone(moment)


def _localised(trial: TrialContent, work: Path) -> dict[str, Any]:
    """The attributes of a trial, with the path of its checkpoint in this work folder."""
    place = trial.attributes.checkpoint
    return trial.attributes.stored | ({CHECKPOINT: str(work / place)} if place else {})


def _read_local(home: Home, name: str) -> StudyContent | None:
    """The study of this name in the storage here, None where there is none."""
    try:
        storage = home.open_storage(create=False)
    except AcsearchError:
        return None  # an error of creating it comes later
    if name not in optuna.get_all_study_names(storage):
        return None
    if not exists(storage, name):
        raise BundleError(f"study {name!r} is here already, and acsearch did not start it; nothing was imported")
    return read_export(storage, name)


def _parse(archive: Archive) -> StudyContent:
    try:
        export = StudyContent.model_validate_json(archive.texts[STUDY])
    except ValidationError as error:
        raise BundleError(f"{archive.path}: {STUDY}: {first_error(error)}") from error
    if export.name != archive.manifest.study:
        raise BundleError(f"{archive.path}: of study {archive.manifest.study!r}, and holds {export.name!r}")
    if export.about is None:
        raise BundleError(f"{archive.path}: does not say what its study searches")
    return export


def _relocate(there: StudyContent, study: str | None) -> StudyContent:
    """The study, with the paths of its table and prior here, which must have the same content."""
    about = there.about
    assert about is not None
    parts = about.model_dump(include={"table", "prior"})
    if study is not None:
        config = load_study(study)
        parts["table"]["source"], parts["prior"]["source"] = vars(config.source), config.file.prior
    try:
        table, prior = load_source(Source(**parts["table"]["source"])), load_prior(parts["prior"]["source"])
    except AcsearchError as error:
        # what is wrong with a file is not said, because a bundle may name any file
        names = [*filter(None, parts["table"]["source"].values()), parts["prior"]["source"]]
        raise BundleError(
            f"the study's table or prior, {' and '.join(map(abbreviate, names))}, cannot be used here; give the "
            "study's folder here with --study"
        ) from error
    parts_here: dict[str, Table | Prior] = {"table": table, "prior": prior}
    for part, value in parts_here.items():
        if digest(value, about.format) != parts[part]["digest"]:
            raise BundleError(f"the {part} here is not the one that the study was started with; --study gives another")
    prior.check(table.metadata)
    make_policy(about.policy, prior)  # raises if this acsearch has none of that name
    attributes = there.attributes | {ABOUT: about.model_dump(exclude_unset=True) | parts}
    return StudyContent(name=there.name, attributes=attributes, trials=there.trials)
