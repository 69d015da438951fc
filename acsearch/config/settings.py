"""Where things are, said once: by the environment, or in a file `acsearch.toml`.

A command's options count first, then environment variables (ACSEARCH_HOME for `home` and so on; MLFLOW_TRACKING_URI for
`tracking` as well), then the file, then the defaults. The file is $ACSEARCH_SETTINGS, or acsearch.toml in the current
folder. Relative paths are relative to the current folder, wherever they are given.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel
from trainers.utils.suggest import suggest

FILE = "acsearch.toml"
_PREFIX = "ACSEARCH_"
_VARIABLES = {"tracking": (f"{_PREFIX}TRACKING", "MLFLOW_TRACKING_URI")}


class _Keys(StrictModel, strict=True, hide_input_in_errors=True):
    """What can be set, as the file has it. None: the default, which depends on `home`."""

    home: str = Field("acsearch-runs", min_length=1, description="the folder of all that is made here")
    storage: str | None = Field(None, description="Optuna's storage, as an SQLAlchemy URL")
    tracking: str | None = Field(None, description="MLflow's tracking URI")
    work: str | None = Field(None, description="the work store, such as s3://bucket/prefix")
    data: str | None = Field(None, description="where data folders are that are not beside their study file")
    lease_seconds: float | None = Field(None, gt=0, description="after which work that nobody renews is free")

    @field_validator("work")
    @classmethod
    def _no_credentials(cls, work: str | None) -> str | None:
        if work is not None and re.search(r"://.*:.*@", work):  # it is kept with jobs and checkpoints
            raise ValueError("no credentials in the address; give them as AWS_ACCESS_KEY_ID and the like")
        return work


class Settings(BaseSettings, _Keys):
    """All of them, from everywhere. Raises ValidationError."""

    model_config = SettingsConfigDict(
        strict=False, env_prefix=_PREFIX, env_ignore_empty=True, populate_by_name=True, hide_input_in_errors=True
    )

    tracking: str | None = Field(None, validation_alias=AliasChoices(*_VARIABLES["tracking"]))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # what we are called with is the file


def settings() -> Settings:
    """What counts now. Raises ConfigError."""
    path = file()
    try:
        return Settings(**({} if path is None else read(path)))
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        key = str(problem["loc"][0])
        variable = key if key.isupper() else f"{_PREFIX}{key.upper()}"
        raise ConfigError(f"${variable}: {_reason(problem)}") from error


def file() -> Path | None:
    """The settings file, absolute; None for none. Raises ConfigError where one is named that is not there."""
    named = os.environ.get(f"{_PREFIX}SETTINGS")
    path = Path(named or FILE).absolute()
    if path.is_file():
        return path
    if named:
        raise ConfigError(f"$ACSEARCH_SETTINGS: no file {named}")
    return None


@functools.cache  # so that a process, which may run for weeks, keeps to what it began with
def read(path: Path) -> dict[str, Any]:
    """What a settings file gives. Raises ConfigError."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return _Keys.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        problem = min(error.errors(include_input=False), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: unknown key {key!r}; {suggest(key, _Keys.model_fields)}") from error
        raise ConfigError(f"{path}: {key}: {_reason(problem)}") from error


def _reason(problem: Any) -> str:
    """Without what was given, which may be a password."""
    return str(problem["ctx"]["error"]) if problem["type"] == "value_error" else str(problem["msg"])


def environment() -> dict[str, str]:
    """The settings that the file gives, as variables, for processes that may not see it."""
    found = settings()
    names = {key: _VARIABLES.get(key, (f"{_PREFIX}{key.upper()}",))[0] for key in _Keys.model_fields}
    return {name: str(value) for key, name in names.items() if (value := getattr(found, key)) is not None}


def given_by_environment() -> list[str]:
    """Variables that say something here."""
    names = [name for key in _Keys.model_fields for name in _VARIABLES.get(key, (f"{_PREFIX}{key.upper()}",))]
    return [name for name in names if os.environ.get(name)]
