"""Tables are read strictly, and what is read is what was written."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest

from acsearch.config.table_file import load_table, shipped
from acsearch.errors import TableError
from acsearch.tables.table import COLUMNS, BenchmarkScale, Table, TableMetadata, parse_table

NAMES = ("CLIP", "DINOv2", "SigLIP", "SD1.5")
TASKS = ("gqa", "mme")


def rows(names: tuple[str, ...] = NAMES, tasks: tuple[str, ...] = TASKS) -> list[dict[str, str]]:
    """One line per cell; score, alignment and correspondence all differ."""
    return [
        {
            "representation": name,
            "benchmark": task,
            "score": f"{40 + 7 * i + 3 * j}.5",
            "alignment": f"0.{5 + i}{j}",
            "correspondence": f"{10 + i}",
        }
        for i, name in enumerate(names)
        for j, task in enumerate(tasks)
    ]


def written(lines: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS, end: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator=end)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def assert_same(one: Table, other: Table) -> None:
    assert (one.representations, one.metadata) == (other.representations, other.metadata)
    for key in ("scores", "alignment", "correspondence"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


@pytest.fixture
def plain() -> Table:
    return parse_table(written(rows()), "t.csv")


@pytest.mark.parametrize(("name", "candidates"), [("law_v1", 13), ("law_v3", 15)])
def test_a_shipped_table_holds_exactly_its_file(name: str, candidates: int) -> None:
    table = load_table(name)
    lines = list(csv.DictReader(shipped("table.csv")[name].open(encoding="utf-8")))
    assert table.scores.shape == table.alignment.shape == (candidates, 8)
    assert table.correspondence.shape == (candidates,)
    assert len(lines) == candidates * 8
    for line in lines:
        i, j = table.representations.index(line["representation"]), table.benchmark_index(line["benchmark"])
        assert table.scores[i, j] == float(line["score"])
        assert table.alignment[i, j] == float(line["alignment"])
        assert table.correspondence[i] == float(line["correspondence"])


@pytest.mark.parametrize("name", ["law_v1", "law_v3"])
def test_a_table_written_out_reads_back_the_same(name: str) -> None:
    table = load_table(name)
    lines = [
        {
            "representation": representation,
            "benchmark": benchmark,
            "score": repr(float(table.scores[i, j])),
            "alignment": repr(float(table.alignment[i, j])),
            "correspondence": repr(float(table.correspondence[i])),
        }
        for i, representation in enumerate(table.representations)
        for j, benchmark in enumerate(table.benchmarks)
    ]
    assert_same(parse_table(written(lines), name, table.metadata), table)


def test_the_definitions_of_shipped_tables_are_stated(v1: Table, v3: Table) -> None:
    assert (v1.metadata.alignment, v3.metadata.alignment) == ("A_cos", "A_ll")
    assert v1.metadata.stated
    assert v3.metadata.stated


def test_a_table_is_found_by_file_folder_and_name(v1: Table) -> None:
    path = shipped("table.csv")["law_v1"]
    assert_same(load_table(str(path)), v1)
    assert_same(load_table(str(path.parent)), v1)


def test_a_sheet_beside_a_table_of_any_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(written(rows()), encoding="utf-8")
    assert not load_table(str(tmp_path / "mine.csv")).metadata.stated
    scales = "".join(f"  {task}: {{floor: 1e1, ceiling: 100}}\n" for task in TASKS)
    sheet = f"alignment: A_ll\ncorrespondence: C\nbenchmarks:\n{scales}"
    (tmp_path / "mine.yaml").write_text(sheet, encoding="utf-8")
    table = load_table(str(tmp_path / "mine.csv"))
    assert (table.name, table.metadata.alignment, table.metadata.stated) == ("mine.csv", "A_ll", True)
    np.testing.assert_array_equal(table.floor, [10, 10])


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_columns_is_free(plain: Table, seed: int) -> None:
    columns = list(COLUMNS)
    random.Random(seed).shuffle(columns)
    assert_same(parse_table(written(rows(), tuple(columns)), "t.csv"), plain)


def test_standard_errors_may_be_told(plain: Table) -> None:
    assert np.isnan(plain.errors).all()
    lines = [line | {"standard_error": "0.5" if place else ""} for place, line in enumerate(rows())]
    table = parse_table(written(lines, (*COLUMNS, "standard_error")), "t.csv")
    assert np.isnan(table.errors[0, 0])
    assert np.nansum(table.errors) == 0.5 * (len(lines) - 1)
    with pytest.raises(TableError, match=r"line 2, column standard_error: -1 is negative"):
        parse_table(written([rows()[0] | {"standard_error": "-1"}], (*COLUMNS, "standard_error")), "t.csv")


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_lines_changes_the_order_of_rows_only(plain: Table, seed: int) -> None:
    lines = rows()
    random.Random(seed).shuffle(lines)
    table = parse_table(written(lines), "t.csv")
    assert table.representations == tuple(dict.fromkeys(line["representation"] for line in lines))
    for name in NAMES:
        for task in TASKS:
            here = table.representations.index(name), table.benchmark_index(task)
            there = plain.representations.index(name), plain.benchmark_index(task)
            assert table.scores[here] == plain.scores[there]
            assert table.alignment[here] == plain.alignment[there]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + written(rows()),
        written(rows(), end="\r\n"),
        "\ufeff" + written(rows(), end="\r\n"),
        written(rows()).replace("\n", "\n\n"),
        written(rows()).rstrip("\n"),
        written(rows()).replace("gqa", '"gqa"'),
        written(rows()).replace(",40.5,", ", +4.05E1 ,"),
    ],
    ids=["bom", "crlf", "bom-and-crlf", "blank-lines", "no-last-newline", "quoted", "other-notation"],
)
def test_what_spreadsheets_write_is_read(plain: Table, text: str, tmp_path: Path) -> None:
    assert_same(parse_table(text, "t.csv"), plain)
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert_same(load_table(str(tmp_path / "t.csv")), plain)


def test_names_may_hold_commas_quotes_and_any_script() -> None:
    names = ("CLIP, 336 px", 'the "big" one', "视觉编码器", "Größe µ–½", "a+b/c%*")
    tasks = ("数学", "MME: perception v1.1")
    table = parse_table(written(rows(names, tasks)), "t.csv")
    assert (table.representations, table.benchmarks) == (names, tasks)
    assert table.scores[2, 1] == 57.5


def test_the_scale_takes_floor_to_zero_and_ceiling_to_one() -> None:
    lines = rows()
    lines[0]["score"], lines[2]["score"] = "25", "100"
    sheet = TableMetadata(
        benchmarks=(BenchmarkScale("mme", 0, 200), BenchmarkScale("gqa", 25, 100))
    )  # in another order than the table
    table = parse_table(written(lines), "t.csv", sheet)
    assert table.benchmarks == TASKS
    assert (table.scaled[0, 0], table.scaled[1, 0]) == (0, 1)
    np.testing.assert_allclose(table.scaled * table.span + table.floor, table.scores)


def test_a_score_below_the_floor_is_below_zero() -> None:
    sheet = TableMetadata(benchmarks=(BenchmarkScale("gqa", 45, 100), BenchmarkScale("mme", 0, 100)))
    assert parse_table(written(rows()), "t.csv", sheet).scaled[0, 0] < 0


@pytest.mark.parametrize(
    ("best", "floor", "ceiling"),
    [
        ("0.9", 0, 1),
        ("1", 0, 1),
        ("1.01", 0, 100),
        ("99.9", 0, 100),
        ("100", 0, 100),
        ("100.1", 0, 200),
        ("450", 0, 500),
        ("501", 0, 1000),
        ("1502.7", 0, 2000),
        ("2001", 0, 5000),
        ("123456", 0, 200_000),
        ("-0.5", -1, 1),
        ("-1.97", -100, 100),
    ],
)
def test_a_guessed_scale_is_round_and_not_the_best_score(best: str, floor: float, ceiling: float) -> None:
    lines = rows(tasks=("gqa",))
    for line, score in zip(lines, ("0.1", "0.2", best, "0.3"), strict=True):
        line["score"] = score
    table = parse_table(written(lines), "t.csv")
    assert table.metadata == TableMetadata(benchmarks=(BenchmarkScale("gqa", floor, ceiling),), stated=False)
    assert table.scaled.min() >= 0
    assert table.scaled.max() <= 1


@pytest.mark.parametrize("known", [0, 1, 3])
def test_correspondence_counts_only_when_all_candidates_have_it(plain: Table, known: int) -> None:
    assert plain.has_correspondence
    lines = rows()
    for line in lines:
        if line["representation"] not in NAMES[:known]:
            line["correspondence"] = ""
    table = parse_table(written(lines), "t.csv")
    assert not table.has_correspondence
    np.testing.assert_array_equal(np.isnan(table.correspondence), np.arange(len(NAMES)) >= known)


@pytest.mark.parametrize("seed", range(5))
def test_a_subset_keeps_every_candidate_with_its_own_values(v1: Table, seed: int) -> None:
    index = np.random.default_rng(seed).permutation(len(v1.representations))[:6]
    pool = v1.subset(index)
    assert (pool.metadata, pool.name, pool.scores.shape) == (v1.metadata, v1.name, (6, 8))
    for i, name in enumerate(pool.representations):
        there = v1.representations.index(name)
        np.testing.assert_array_equal(pool.scores[i], v1.scores[there])
        np.testing.assert_array_equal(pool.alignment[i], v1.alignment[there])
        np.testing.assert_array_equal(pool.scaled[i], v1.scaled[there])
        assert pool.correspondence[i] == v1.correspondence[there]


def test_an_unknown_benchmark_is_an_error_that_names_the_known_ones(plain: Table) -> None:
    with pytest.raises(TableError, match=r"t\.csv: no benchmark 'pope'; it has gqa, mme"):
        plain.benchmark_index("pope")


@pytest.mark.parametrize("column", COLUMNS[:-1])
@pytest.mark.parametrize("line", [2, 5, 9])
def test_an_empty_cell_is_reported_with_line_and_column(column: str, line: int) -> None:
    lines = rows()
    lines[line - 2][column] = ""
    with pytest.raises(TableError, match=rf"^t\.csv, line {line}, column {column}: "):
        parse_table(written(lines), "t.csv")


@pytest.mark.parametrize("missing", range(len(NAMES) * len(TASKS)))
def test_a_missing_combination_is_reported_by_name(missing: int) -> None:
    lines = rows()
    gone = lines.pop(missing)
    with pytest.raises(TableError, match=rf"{gone['representation']!r} on benchmark {gone['benchmark']!r}"):
        parse_table(written(lines), "t.csv")


@pytest.mark.parametrize("again", range(len(NAMES) * len(TASKS)))
def test_a_doubled_cell_is_reported_with_both_lines(again: int) -> None:
    lines = rows()
    with pytest.raises(TableError, match=rf"line 10: .* is given twice, first on line {again + 2}$"):
        parse_table(written([*lines, lines[again]]), "t.csv")
