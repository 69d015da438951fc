"""Benchmarks as data: which task of lmms-eval, which of its numbers, and on which scale.

`benchmarks.yaml` holds the sets that ship with acsearch; a study may bring a file of its own in the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, RootModel, ValidationError, model_validator

from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, first_problem, read_yaml
from trainers.utils.suggest import suggest

BUILT_IN = Path(__file__).with_name("benchmarks.yaml")
_PACKAGE = "lmms_eval:"  # a definition among lmms-eval's own tasks


class Benchmark(StrictModel):
    """A benchmark and where its score is found.

    Attributes:
        name: of the benchmark.
        task: its name in lmms-eval.
        definition: the YAML file of that task.
        metric: the key of the score in lmms-eval's results.
        scale: points for one unit of the metric.
        floor: points of a model that knows nothing.
        ceiling: points of a model that answers everything right.
        higher_is_better: whether more points are better.
        units: how the score is made of samples, for its standard error; see `evals.standard_error`.
        cluster: the column of what several questions share, such as an image, so that they are not independent.
        keep: values by column; only rows with one of them are asked.
        rows: how many consecutive rows are scored together.
        images: what is shown of several images: "one" makes them an error, "first" shows the first, "all" shows all,
            and videos too.
        questions: how many there are, for plans; None where that is the data's matter.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: str = Field(min_length=1)
    definition: Path
    metric: str = Field(min_length=1)
    scale: float = Field(default=100.0, gt=0)
    floor: float
    ceiling: float
    higher_is_better: bool = True
    units: Literal["samples", "matches", "mmmu", "mme", "mmbench", "none"] = "samples"
    cluster: str | None = None
    keep: dict[str, tuple[str, ...]] = {}
    rows: int = Field(default=1, ge=1)
    images: Literal["one", "first", "all"] = "one"
    questions: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> Benchmark:
        if self.floor >= self.ceiling:
            raise ValueError(f"floor {self.floor:g} must be below ceiling {self.ceiling:g}")
        return self


class _File(RootModel[dict[str, dict[str, dict[str, Any]]]]):
    """Sets of benchmarks by name."""


def load_benchmarks(which: str, names: Sequence[str] | None = None, *, file: Path = BUILT_IN) -> tuple[Benchmark, ...]:
    """Read a set of benchmarks.

    Args:
        which: the name of the set.
        names: benchmarks of the set, in the order wanted; all where it is not given.
        file: the YAML file with the sets.

    Raises:
        ConfigError: there is no such set or benchmark, or an entry cannot be used; the message names it.
    """
    sets = read_yaml(file, _File).root
    entries = sets[_known(which, sets, "set of benchmarks", file)]
    chosen = (
        list(entries) if names is None else [_known(name, entries, f"benchmark in {which}", file) for name in names]
    )
    return tuple(_benchmark(name, entries[name], f"{file}: {which}.{name}", file.parent) for name in chosen)


def benchmark(name: str, *, file: Path = BUILT_IN) -> Benchmark:
    """Read one benchmark of any set; names are unique among the sets.

    Args:
        name: of the benchmark.
        file: the YAML file with the sets.

    Raises:
        ConfigError: there is no such benchmark, or it cannot be used.
    """
    of = {entry: which for which, entries in read_yaml(file, _File).root.items() for entry in entries}
    return load_benchmarks(of[_known(name, of, "benchmark", file)], [name], file=file)[0]


def _known(given: str, known: dict[str, Any], what: str, file: Path) -> str:
    if given in known:
        return given
    raise ConfigError(f"no {what} {given!r} in {file}; {suggest(given, known, 'there are')}")


def _benchmark(name: str, entry: dict[str, Any], where: str, folder: Path) -> Benchmark:
    try:
        made = Benchmark.model_validate({"name": name, **entry})
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, Benchmark)}") from error
    return made.model_copy(update={"definition": _definition(str(made.definition), where, folder)})


def _definition(given: str, where: str, folder: Path) -> Path:
    if given.startswith(_PACKAGE):
        spec = find_spec("lmms_eval")  # without importing it
        if spec is None or spec.origin is None:
            raise ConfigError(f"{where}: {given} needs lmms-eval, which is not installed; pip install lmms-eval==0.7.3")
        path = Path(spec.origin).parent / "tasks" / given.removeprefix(_PACKAGE)
    else:
        path = (folder / given).absolute()
    if not path.is_file():
        raise ConfigError(f"{where}: the definition {given} does not exist; looked for {path}")
    return path
