"""Settings: where studies, data and services are, from the environment or a file `acsearch.toml`.

The options of a command come first, then environment variables (ACSEARCH_HOME for `home` and so on; for `tracking` also
MLFLOW_TRACKING_URI), then the file, then the defaults. The file is $ACSEARCH_SETTINGS, or acsearch.toml in the current
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

from acsearch.redaction import register_secret
from trainers.errors import ConfigError
from trainers.utils.regular_files import read_text
from trainers.utils.strict_yaml import StrictModel
from trainers.utils.suggest import suggest

FILE = "acsearch.toml"
_PREFIX = "ACSEARCH_"
_VARIABLES = {"tracking": (f"{_PREFIX}TRACKING", "MLFLOW_TRACKING_URI")}


class _Keys(StrictModel, strict=True, hide_input_in_errors=True):
    """The keys of the settings file. None stands for a default that depends on `home`."""

    home: str = Field("acsearch-runs", min_length=1, description="folder of everything that acsearch writes")
    storage: str | None = Field(None, description="storage of Optuna, an SQLAlchemy URL")
    tracking: str | None = Field(None, description="tracking URI of MLflow")
    work: str | None = Field(None, description="work store, such as s3://bucket/prefix")
    data: str | None = Field(None, description="folder of data folders that are not beside their study file")
    lease_seconds: float | None = Field(
        None, gt=0, description="seconds after which a lease that is not renewed lapses"
    )

    @field_validator("work")
    @classmethod
    def _no_credentials(cls, work: str | None) -> str | None:
        if work is not None and re.search(r"://.*:.*@", work):  # the address is stored with jobs and checkpoints
            raise ValueError("no credentials in the address; give them as AWS_ACCESS_KEY_ID and the like")
        return work


class Settings(BaseSettings, _Keys):
    """All settings, from the environment and the given values of the file."""

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
        """The environment comes before the values that the constructor is given, which are those of the file."""
        return env_settings, init_settings


def settings() -> Settings:
    """The settings that apply now.

    Raises:
        ConfigError: the file or an environment variable is wrong; the message names it.
    """
    path = file()
    try:
        found = Settings(**({} if path is None else read(path)))
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        key = str(problem["loc"][0])
        variable = key if key.isupper() else f"{_PREFIX}{key.upper()}"
        raise ConfigError(f"${variable}: {_reason(problem)}") from error
    for address in (found.storage, found.tracking):
        register_secret(address or "")
    return found


def file() -> Path | None:
    """The absolute path of the settings file, None where there is none.

    Raises:
        ConfigError: $ACSEARCH_SETTINGS names a file that does not exist.
    """
    named = os.environ.get(f"{_PREFIX}SETTINGS")
    path = Path(named or FILE).absolute()
    if path.is_file():
        return path
    if named:
        raise ConfigError(f"$ACSEARCH_SETTINGS: no file {named}")
    return None


@functools.cache  # a process may run for weeks, and keeps the settings that it started with
def read(path: Path) -> dict[str, Any]:
    """Read the keys that a settings file gives.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a wrong value.
    """
    try:
        given = tomllib.loads(read_text(path))
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
    """The message of a validation error, without the value given, which may be a password."""
    return str(problem["ctx"]["error"]) if problem["type"] == "value_error" else str(problem["msg"])


def environment() -> dict[str, str]:
    """The present settings as environment variables, for processes that may not see the settings file."""
    found = settings()
    names = {key: _VARIABLES.get(key, (f"{_PREFIX}{key.upper()}",))[0] for key in _Keys.model_fields}
    return {name: str(value) for key, name in names.items() if (value := getattr(found, key)) is not None}


def given_by_environment() -> list[str]:
    """Names of the environment variables that give a setting."""
    names = [name for key in _Keys.model_fields for name in _VARIABLES.get(key, (f"{_PREFIX}{key.upper()}",))]
    return [name for name in names if os.environ.get(name)]
