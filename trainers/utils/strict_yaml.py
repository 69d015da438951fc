"""Read YAML files into strict models: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from trainers.errors import AcsearchError, ConfigError
from trainers.utils import regular_files
from trainers.utils.parsing import parse_yaml
from trainers.utils.suggest import suggest

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """A frozen model without unknown keys or NaN; with `class Name(StrictModel, strict=True)` no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_text(path: Path, error: type[AcsearchError]) -> str:
    """Read a UTF-8 file.

    Args:
        path: the file.
        error: the type of error to raise.

    Raises:
        error: it cannot be read, is not a regular file, or is not UTF-8; the message names the file.
    """
    try:
        return regular_files.read_text(path)
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 text (byte {problem.start})") from problem
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from problem


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a model.

    Args:
        path: the file.
        model: the class of the model.

    Raises:
        ConfigError: it cannot be read, or does not fit the model; the message names file and key.
    """
    try:
        data = parse_yaml(read_text(path, ConfigError))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path}: expected keys and values, found {found}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error, model)}") from error


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """A sentence on the first unknown key, which is often why another one is missing; else on the first problem."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {suggest(str(problem['loc'][-1]), _keys(model, problem['loc']))}"
    if problem["type"] == "missing":
        return f"key {where!r} is missing"
    if problem["type"] == "value_error":  # our own checks say what was given
        return f"{where}: {problem['ctx']['error']}" if problem["loc"] else str(problem["ctx"]["error"])
    return f"{where}: {problem['msg']}, got {abbreviate(problem['input'])}"


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at a location in the file."""
    here = [model]
    for part in location[:-1]:
        fields = [one.model_fields[part] for one in here if isinstance(part, str) and part in one.model_fields]
        here = [inner for field in fields for inner in _models(field.annotation)] or here
    return [key for one in here for key in one.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type such as `dict[str, Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def abbreviate(value: object) -> str:
    """A value for a message, cut before it is written out: YAML can nest billions of values in a few lines."""
    return f"{reprlib.repr(value):.80}"
