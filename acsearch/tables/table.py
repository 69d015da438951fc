"""Recorded tables: what every candidate scored on every benchmark, with its A and C, read strictly.

A table is a CSV with one line per cell, `representation,benchmark,score,alignment,correspondence`, and metadata beside
it that says what the columns mean: which definitions of A and C, which LLM, which source, and the floor and ceiling of
each benchmark. A sixth column, `standard_error`, may give the standard error of each score. Correspondence may be left
empty. Alignment may differ from benchmark to benchmark (as `A_cos` does); correspondence must not, because it is a
property of the encoder alone.

Nothing here opens a file: `acsearch.config.table_file` does.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acsearch.errors import TableError
from acsearch.tables.names import normal

COLUMNS = ("representation", "benchmark", "score", "alignment", "correspondence")
UNSTATED = "unstated"
LARGEST = 1e12  # absolute value of any number: far above all scores, and its square is still a float
_C = "correspondence"  # its cells may be empty
_ERROR = "standard_error"  # an optional column
_LONGEST = 200  # characters of a name, which MLflow can still show
_RESERVED = "mean"  # the objective that is the average of all benchmarks
_ROUNDING = 1e-9  # relative difference up to which two values count as equal


@dataclass(frozen=True)
class BenchmarkScale:
    """A benchmark and the fixed scale of its scores.

    Attributes:
        name: Name of the benchmark.
        floor: Score of guessing at random, in points.
        ceiling: Highest possible score, in points.
    """

    name: str
    floor: float
    ceiling: float


@dataclass(frozen=True)
class TableMetadata:
    """What the columns of a table mean.

    Attributes:
        alignment: Definition of A, such as `A_cos`.
        correspondence: Definition of C, such as `C_compat`; `none` where the table has no C.
        llm: The language model that the scores belong to.
        source: Where the numbers come from.
        title: Title of the table.
        benchmarks: The benchmarks with their scales, in the order of the table's columns.
        stated: False where no metadata was given, so that the scales are guesses.
    """

    alignment: str = UNSTATED
    correspondence: str = UNSTATED
    llm: str = UNSTATED
    source: str = UNSTATED
    title: str = ""
    benchmarks: tuple[BenchmarkScale, ...] = ()
    stated: bool = True


@dataclass(frozen=True, eq=False)
class Table:
    """Scores, A and C of N candidates on M benchmarks.

    A recorded table knows every score. In the table of a study that trains, values are NaN until they are measured.

    Attributes:
        name: Name of the table, for messages.
        representations: Names of the N candidates.
        scores: (N, M) in points.
        alignment: (N, M) the A of each candidate for each benchmark.
        correspondence: (N,) the C of each candidate, NaN where it is not known.
        errors: (N, M) standard errors of the scores in points, NaN where they are not known.
        metadata: What the columns mean.
    """

    name: str
    representations: tuple[str, ...]
    scores: NDArray[np.float64]
    alignment: NDArray[np.float64]
    correspondence: NDArray[np.float64]
    errors: NDArray[np.float64]
    metadata: TableMetadata

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The names of the M benchmarks, in the order of the columns."""
        return tuple(benchmark.name for benchmark in self.metadata.benchmarks)

    @property
    def floor(self) -> NDArray[np.float64]:
        """(M,) floor of each benchmark, in points."""
        return np.array([benchmark.floor for benchmark in self.metadata.benchmarks])

    @property
    def span(self) -> NDArray[np.float64]:
        """(M,) ceiling minus floor, in points."""
        return np.array([benchmark.ceiling - benchmark.floor for benchmark in self.metadata.benchmarks])

    @property
    def scaled(self) -> NDArray[np.float64]:
        """(N, M) scores with floor 0 and ceiling 1."""
        return self.scale(self.scores)

    def scale(self, points: ArrayLike) -> NDArray[np.float64]:
        """Scores in points, (..., M), with floor 0 and ceiling 1."""
        return (np.asarray(points, dtype=np.float64) - self.floor) / self.span

    @property
    def has_correspondence(self) -> bool:
        """Whether C is known for every candidate; where it is not, the law goes without it."""
        return not np.isnan(self.correspondence).any()

    def benchmark_index(self, name: str) -> int:
        """The column of a benchmark.

        Raises:
            TableError: the table has no benchmark of this name; the message lists those that it has.
        """
        if name not in self.benchmarks:
            raise TableError(f"{self.name}: no benchmark {name!r}; it has {', '.join(self.benchmarks)}")
        return self.benchmarks.index(name)

    def subset(self, rows: Sequence[int] | NDArray[np.intp]) -> Table:
        """The same table with only these rows, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            representations=tuple(self.representations[i] for i in index),
            scores=self.scores[index],
            alignment=self.alignment[index],
            correspondence=self.correspondence[index],
            errors=self.errors[index],
        )


def parse_table(text: str, name: str, metadata: TableMetadata | None = None) -> Table:
    """Read a table from CSV text.

    Without metadata the definitions are unstated, and the scale of each benchmark is guessed: its floor is 0 and its
    ceiling the next round number (1, 100, 200, 500, 1000, ...) that is not below the best score.

    Args:
        text: The CSV text.
        name: Name of the table, for error messages.
        metadata: What the columns mean; None where it is not known.

    Raises:
        TableError: something is missing, given twice, unknown or not a number; the message names line and cell.
    """
    cells = _read_cells(text, name)
    representations = tuple(dict.fromkeys(representation for representation, _ in cells))
    benchmarks = tuple(dict.fromkeys(benchmark for _, benchmark in cells))
    for representation in representations:
        for benchmark in benchmarks:
            if (representation, benchmark) not in cells:
                raise TableError(f"{name}: no line for representation {representation!r} on benchmark {benchmark!r}")
    if len(representations) < 2:
        raise TableError(f"{name}: only one representation, {representations[0]!r}; a table compares two or more")

    def column(key: str) -> NDArray[np.float64]:
        return np.array([[cells[r, b][key] for b in benchmarks] for r in representations])

    scores, alignment = column("score"), column("alignment")
    for values, what in ((scores, "score"), (alignment, "alignment")):
        constant = _without_variation(values)
        if constant.any():
            column_index = int(constant.argmax())
            raise TableError(
                f"{name}: benchmark {benchmarks[column_index]!r} has the same {what} ({values[0, column_index]:g}) for "
                f"every representation, so it cannot tell them apart; remove its lines"
            )
    described = _guess(benchmarks, scores) if metadata is None else _ordered(metadata, benchmarks, name)
    correspondence = _one_per_representation(cells, representations, name)
    table = Table(name, representations, scores, alignment, correspondence, column(_ERROR), described)
    _check_range(table, cells)
    if described.correspondence == "none" and not np.isnan(table.correspondence).all():
        raise TableError(f"{name}: its metadata says correspondence: none, but the table gives values")
    return table


def _without_variation(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each column holds the same value in all rows, up to rounding."""
    same: NDArray[np.bool_] = np.ptp(values, axis=0) <= _ROUNDING * np.abs(values).max(axis=0)
    return same


def _read_cells(text: str, name: str) -> dict[tuple[str, str], dict[str, float]]:
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    cells: dict[tuple[str, str], dict[str, float]] = {}
    try:
        header = next(reader, None)
        if header is None:
            raise TableError(f"{name}: the file is empty; its first line must be {','.join(COLUMNS)}")
        _check_header(header, name)
        for row in reader:
            if row:
                _read_row(dict(zip(header, row, strict=False)), len(row), len(header), name, reader.line_num, cells)
    except csv.Error as error:
        raise TableError(f"{name}, line {reader.line_num}: not readable as CSV: {error}") from error
    if not cells:
        raise TableError(f"{name}: no line after the header")
    return cells


def _check_header(header: list[str], name: str) -> None:
    doubled = sorted({column for column in header if header.count(column) > 1})
    unknown = [column for column in header if column not in (*COLUMNS, _ERROR)]
    missing = [column for column in COLUMNS if column not in header]
    for what, columns in (("doubled", doubled), ("unknown", unknown), ("missing", missing)):
        if columns:
            raise TableError(
                f"{name}, line 1: {what} column {', '.join(map(repr, columns))}; the columns are {','.join(COLUMNS)}"
            )


def _read_row(
    row: dict[str, str],
    width: int,
    expected: int,
    name: str,
    line: int,
    cells: dict[tuple[str, str], dict[str, float]],
) -> None:
    where = f"{name}, line {line}"
    if width != expected:
        raise TableError(f"{where}: {width} cells where the header has {expected}")
    for column in ("representation", "benchmark"):
        name_given = row[column]
        if not name_given.strip() or name_given != name_given.strip() or not name_given.isprintable():
            raise TableError(f"{where}, column {column}: {name_given!r} is not a name")
        row[column] = name_given = normal(name_given)
        if len(name_given) > _LONGEST:
            raise TableError(f"{where}, column {column}: a name of {len(name_given)} characters; {_LONGEST} at most")
    if row["benchmark"] == _RESERVED:
        raise TableError(f"{where}, column benchmark: {_RESERVED!r} stands for the average of all; give another name")
    key = (row["representation"], row["benchmark"])
    if key in cells:
        first = int(cells[key]["line"])
        raise TableError(f"{where}: {key[0]!r} on {key[1]!r} is given twice, first on line {first}")
    cells[key] = {"line": line}
    for column in COLUMNS[2:]:
        cells[key][column] = _number(row[column], column, where)
    error = _number(row.get(_ERROR, ""), _ERROR, where)
    if error < 0:
        raise TableError(f"{where}, column {_ERROR}: {error:g} is negative")
    cells[key][_ERROR] = error


def _number(cell: str, column: str, where: str) -> float:
    if not cell.strip():
        if column in (_C, _ERROR):
            return math.nan
        raise TableError(f"{where}, column {column}: the cell is empty")
    try:
        if "_" in cell or not cell.isascii():  # float() would read 6_5 and other scripts' digits
            raise ValueError
        value = float(cell)
    except ValueError:
        raise TableError(f"{where}, column {column}: {cell!r} is not a number") from None
    if not math.isfinite(value):
        raise TableError(f"{where}, column {column}: {cell!r} is not a finite number")
    if abs(value) > LARGEST:
        raise TableError(f"{where}, column {column}: {cell!r} is out of range, {LARGEST:g} at most")
    return value


def _one_per_representation(
    cells: dict[tuple[str, str], dict[str, float]], representations: tuple[str, ...], name: str
) -> NDArray[np.float64]:
    found: dict[str, dict[str, float]] = {}
    for (representation, _), cell in cells.items():
        first = found.setdefault(representation, cell)
        same = first[_C] == cell[_C] or (math.isnan(first[_C]) and math.isnan(cell[_C]))
        if not same:
            raise TableError(
                f"{name}, line {int(cell['line'])}: {representation!r} has correspondence {_shown(cell[_C])}, "
                f"but {_shown(first[_C])} on line {int(first['line'])}; C belongs to the encoder, not to the "
                f"benchmark"
            )
    values = np.array([found[representation][_C] for representation in representations])
    if not np.isnan(values).any() and _without_variation(values):
        raise TableError(f"{name}: correspondence is {values[0]:g} everywhere; leave the cells empty if it is unknown")
    return values


def _shown(value: float) -> str:
    return "empty" if math.isnan(value) else f"{value:g}"


def _guess(benchmarks: tuple[str, ...], scores: NDArray[np.float64]) -> TableMetadata:
    guessed = []
    for name, column in zip(benchmarks, scores.T, strict=True):
        ceiling = _full_mark(float(np.abs(column).max()))
        guessed.append(BenchmarkScale(name, floor=-ceiling if column.min() < 0 else 0.0, ceiling=ceiling))
    return TableMetadata(benchmarks=tuple(guessed), stated=False)


def _full_mark(score: float) -> float:
    """Smallest of 1, 100, 200, 500, 1000, 2000, ... that is not below the score."""
    if score <= 1:
        return 1.0
    decade = 100.0
    while score > 5 * decade:
        decade *= 10
    return next(step * decade for step in (1, 2, 5) if score <= step * decade)


def _ordered(metadata: TableMetadata, benchmarks: tuple[str, ...], name: str) -> TableMetadata:
    known = {benchmark.name: benchmark for benchmark in metadata.benchmarks}
    missing, extra = sorted(set(benchmarks) - set(known)), sorted(set(known) - set(benchmarks))
    if missing:
        raise TableError(f"{name}: its metadata gives no floor and ceiling for {', '.join(missing)}")
    if extra:
        raise TableError(f"{name}: its metadata names {', '.join(extra)}, of which the table has no line")
    return replace(metadata, benchmarks=tuple(known[benchmark] for benchmark in benchmarks))


def _check_range(table: Table, cells: dict[tuple[str, str], dict[str, float]]) -> None:
    for benchmark in table.metadata.benchmarks:
        for representation in table.representations:
            cell = cells[representation, benchmark.name]
            if cell["score"] > benchmark.ceiling:
                raise TableError(
                    f"{table.name}, line {int(cell['line'])}, column score: {cell['score']:g} is above the ceiling "
                    f"{benchmark.ceiling:g} of {benchmark.name!r}"
                )


def is_scored(table: Table) -> bool:
    """Whether A is known for every candidate."""
    return not any(math.isnan(value) for value in table.alignment[:, 0])


def with_scores(table: Table, scores: dict[int, dict[str, Any]]) -> Table:
    """The table with the A and C that have been measured so far.

    Args:
        table: A table whose A and C are unknown.
        scores: By row of the table, `alignment` (one value per benchmark) and `correspondence` (None where unknown).
    """
    alignment, correspondence = table.alignment.copy(), table.correspondence.copy()
    for row, one in scores.items():
        alignment[row] = one["alignment"]
        correspondence[row] = math.nan if one["correspondence"] is None else one["correspondence"]
    return replace(table, alignment=alignment, correspondence=correspondence)
