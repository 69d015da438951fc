"""What is checked before a study is started."""

from __future__ import annotations

import re

import optuna

from acsearch.config.study_file import StudyFile
from acsearch.config.table_file import NAME
from acsearch.errors import StudyError
from acsearch.law.prior import Prior
from acsearch.policies.registry import make_policy
from acsearch.storage.claims import Claims
from acsearch.study.stored import StoredStudy, exists
from acsearch.study.validation import reading
from acsearch.tables.table import Table
from trainers.errors import ConfigError


def check_start(file: StudyFile, table: Table, prior: Prior, budget: int) -> None:
    """Check that the parts of a study fit together.

    Args:
        file: the study file.
        table: its candidates.
        prior: of the law.
        budget: finetunes that may be started.

    Raises:
        ConfigError: the budget or the objective does not fit the table, or there is no such policy.
        DefinitionError: the prior belongs to other definitions of A or C than the table's.
    """
    if not 1 <= budget <= len(table.representations):
        raise ConfigError(f"--budget {budget}: must be between 1 and the {len(table.representations)} candidates")
    if file.objective != "mean" and file.objective not in table.benchmarks:
        raise ConfigError(f"objective {file.objective!r}: neither 'mean' nor one of {', '.join(table.benchmarks)}")
    prior.check(table.metadata)
    make_policy(file.policy, prior)


def check_free(storage: optuna.storages.BaseStorage, claims: Claims, name: str) -> None:
    """Check that there is no study of this name yet.

    Raises:
        StudyError: there is one; the message says how to go on with it, or that it is not ours.
    """
    if exists(storage, name):
        there = StoredStudy(storage, claims, name).snapshot()
        raise StudyError(
            f"study {name!r} exists, {len(there.finished)} of {there.budget} finetunes done: go on with "
            f"acsearch study resume {name}, or choose another --name"
        )
    with reading("--storage"):
        taken = name in optuna.get_all_study_names(storage)
    if taken:
        raise StudyError(
            f"study {name!r} is in the storage and acsearch did not start it, or its start was cut off by a version "
            f"before this one; nothing is written to it: choose another --name, or delete it with Optuna"
        )


def check_name(name: str) -> None:
    """Check that a text can be the name of a study.

    Raises:
        StudyError: it cannot.
    """
    if not re.fullmatch(NAME, name):
        raise StudyError(f"{name!r} is not a study's name: letters, digits, '.', '_' and '-', 100 at most")
