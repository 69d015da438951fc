"""A study is created with all that says what it is, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping

import optuna
import sqlalchemy.exc
import sqlalchemy.orm
from optuna.storages._rdb import models
from optuna.study import StudyDirection

from acsearch.storage.retrying import RetryingStorage, retry_on_outage


def create_study(storage: optuna.storages.RDBStorage, name: str, attributes: Mapping[str, object]) -> bool:
    """Create a study that maximises, in one transaction with its attributes.

    Optuna's own `create_study`, where it is killed, leaves a study without attributes, which nobody can tell from a
    study of somebody else.

    Args:
        storage: where it is kept.
        name: of the study.
        attributes: user attributes of the study, which no other study has.

    Returns:
        Whether it is there now; False where another one has its name.
    """

    def create() -> bool:
        try:
            with sqlalchemy.orm.Session(storage.engine) as session, session.begin():
                session.add(_rows(name, attributes))
        except sqlalchemy.exc.IntegrityError:  # by another one, or by the try before, whose answer was lost
            return optuna.load_study(study_name=name, storage=storage).user_attrs == attributes
        return True

    return (retry_on_outage(create) if isinstance(storage, RetryingStorage) else create)()


def _rows(name: str, attributes: Mapping[str, object]) -> models.StudyModel:
    return models.StudyModel(
        study_name=name,
        directions=[models.StudyDirectionModel(objective=0, direction=StudyDirection.MAXIMIZE)],
        user_attributes=[
            models.StudyUserAttributeModel(key=key, value_json=json.dumps(value)) for key, value in attributes.items()
        ],
    )
