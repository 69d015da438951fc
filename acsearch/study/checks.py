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
from acsearch.study.stored import (
    StoredStudy,
    exists,
)
from acsearch.tables.table import Table
from trainers.errors import ConfigError


def check_start(file: StudyFile, table: Table, prior: Prior, budget: int) -> None:
    """Raises ConfigError or DefinitionError for a study whose parts do not fit together."""
    if not 1 <= budget <= len(table.representations):
        raise ConfigError(f"--budget {budget}: must be between 1 and the {len(table.representations)} candidates")
    if file.objective != "mean" and file.objective not in table.benchmarks:
        raise ConfigError(f"objective {file.objective!r}: neither 'mean' nor one of {', '.join(table.benchmarks)}")
    prior.check(table.metadata)
    make_policy(file.policy, prior)


def check_free(storage: optuna.storages.BaseStorage, claims: Claims, name: str) -> None:
    """Raises StudyError when a study of this name exists, saying how to go on with it."""
    if exists(storage, name):
        there = StoredStudy(storage, claims, name).snapshot()
        raise StudyError(
            f"study {name!r} exists, {len(there.finished)} of {there.budget} finetunes done: go on with "
            f"acsearch study resume {name}, or choose another --name"
        )


def check_name(name: str) -> None:
    """Raises StudyError for what cannot be a study's name."""
    if not re.fullmatch(NAME, name):
        raise StudyError(f"{name!r} is not a study's name: letters, digits, '.', '_' and '-', 100 at most")
