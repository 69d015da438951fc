"""A study is started: what is searched is written down, once, and all of it or nothing."""

from __future__ import annotations

import optuna

from acsearch.config.study_file import StudyConfig
from acsearch.policies.registry import resolve
from acsearch.storage.claims import Claims
from acsearch.storage.creation import create_study
from acsearch.study.checks import check_free, check_start
from acsearch.study.identity import FORMAT, digest
from acsearch.study.schema import ABOUT, BUDGET
from acsearch.study.stored import StoredStudy, exists
from acsearch.study.times import now


def start_study(
    storage: optuna.storages.RDBStorage,
    claims: Claims,
    *,
    name: str,
    config: StudyConfig,
    budget: int,
    resume: bool = False,
) -> StoredStudy:
    """Write a new study down.

    Args:
        storage: where it is kept.
        claims: of the study.
        name: of the study.
        config: what is searched.
        budget: finetunes that may be started.
        resume: a study of this name is opened instead, as it is but for a larger budget.

    Raises:
        StudyError: the name is taken.
        ConfigError: the budget or the objective does not fit the table, or there is no such policy.
        DefinitionError: the prior belongs to other definitions of A or C than the table's.
    """
    file, table, prior = config.file, config.table, config.prior
    check_start(file, table, prior, budget)
    with claims.exclusive("start"):
        if resume and exists(storage, name):
            there = StoredStudy(storage, claims, name)
            there.snapshot()  # before anything is written to what cannot be gone on with
            if budget > there.budget:
                there.raise_budget(budget)
            return there
        check_free(storage, claims, name)
        about = {
            "format": FORMAT,
            "title": file.title,
            "table": {"source": vars(config.source), "digest": digest(table)},
            "objective": file.objective,
            "policy": resolve(file.policy),
            "prior": {"source": file.prior, "digest": digest(prior)},
            "seed": file.seed,
            "started": now().isoformat(),
        }
        if not create_study(storage, name, {BUDGET: budget, ABOUT: about}):
            check_free(storage, claims, name)
    return StoredStudy(storage, claims, name)
