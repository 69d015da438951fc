"""Tables and their metadata with one thing wrong."""

from __future__ import annotations

from pathlib import Path

from support.bad_input.cases import FIT, HEADER, SHEET, TABLE, cell, command, sheet, swapped, table


def sheet_is_a_folder(folder: Path) -> None:
    (folder / "table.yaml").unlink()
    (folder / "table.yaml").mkdir()


def flat(column: int) -> str:
    """The table with one column the same everywhere."""
    lines = [line.split(",") for line in TABLE.splitlines()]
    return "\n".join(
        ",".join([*line[:column], "7" if i else line[column], *line[column + 1 :]]) for i, line in enumerate(lines)
    )


TABLES = {
    "empty": table("", "the file is empty"),
    "header-only": table(HEADER, "no line after the header"),
    "binary": table(bytes(range(256)), "table.csv: not UTF-8 text (byte 128)"),
    "utf-16": table(TABLE.encode("utf-16"), "table.csv: not UTF-8 text (byte 0)"),
    "latin-1": table(swapped(TABLE, "clip,gqa", "clïp,gqa").encode("latin-1"), "table.csv: not UTF-8 text (byte 58)"),
    "semicolons": table(TABLE.replace(",", ";"), "line 1: unknown column 'representation;benchmark"),
    "no-header": table(TABLE.split("\n", 1)[1], "line 1: unknown column 'clip'"),
    "missing-column": table("\n".join(line.rsplit(",", 1)[0] for line in TABLE.splitlines()), "missing column 'corr"),
    "unknown-column": table("\n".join(f"{line},x" for line in TABLE.splitlines()), "line 1: unknown column 'x'"),
    "doubled-column": cell("alignment", "score", "line 1: doubled column 'score'"),
    "misspelt-column": cell("alignment", "Alignment", "line 1: unknown column 'Alignment'"),
    "spaced-column": cell(",alignment", ", alignment", "line 1: unknown column ' alignment'"),
    "too-few-cells": cell("clip,gqa,50,0.10,10", "clip,gqa,50,0.10", "line 2: 4 cells where the header has 5"),
    "too-many-cells": cell("clip,gqa,50,0.10,10", "clip,gqa,50,0.10,10,1", "line 2: 6 cells where the header has 5"),
    "unquoted-decimal-comma": cell("clip,gqa,50,", "clip,gqa,50,5,", "line 2: 6 cells where the header has 5"),
    "decimal-comma": cell("clip,gqa,50,", 'clip,gqa,"50,5",', "line 2, column score: '50,5' is not a number"),
    "empty-score": cell("clip,mme,51,", "clip,mme,,", "line 3, column score: the cell is empty"),
    "blank-score": cell("clip,mme,51,", "clip,mme,  ,", "line 3, column score: the cell is empty"),
    "empty-alignment": cell("51,0.11,", "51,,", "line 3, column alignment: the cell is empty"),
    "nan": cell("clip,mme,51,", "clip,mme,NaN,", "line 3, column score: 'NaN' is not a finite number"),
    "nan-correspondence": cell("51,0.11,10", "51,0.11,nan", "line 3, column correspondence: 'nan' is not a finite"),
    "infinite": cell("51,0.11,", "51,-inf,", "line 3, column alignment: '-inf' is not a finite number"),
    "beyond-floats": cell("clip,mme,51,", "clip,mme,1e400,", "line 3, column score: '1e400' is not a finite number"),
    "huge": cell("51,0.11,", "51,1e300,", "line 3, column alignment: '1e300' is out of range"),
    "text": cell("clip,mme,51,", "clip,mme,n/a,", "line 3, column score: 'n/a' is not a number"),
    "percent": cell("clip,mme,51,", "clip,mme,51%,", "line 3, column score: '51%' is not a number"),
    "underscored-number": cell("clip,mme,51,", "clip,mme,5_1,", "line 3, column score: '5_1' is not a number"),
    "foreign-digits": cell("clip,mme,51,", "clip,mme,٥١,", "line 3, column score: '٥١' is not a number"),
    "nul-in-a-number": cell("clip,mme,51,", "clip,mme,5\x001,", r"line 3, column score: '5\x001' is not a number"),
    "nul-in-a-name": cell("clip,mme", "cl\x00ip,mme", r"line 3, column representation: 'cl\x00ip' is not a name"),
    "escape-in-a-name": cell("clip,mme", "\x1b[31mclip,mme", r"representation: '\x1b[31mclip' is not a name"),
    "newline-in-a-name": cell("clip,gqa", '"cl\nip",gqa', r"line 3, column representation: 'cl\nip' is not a name"),
    "invisible-in-a-name": cell("clip,mme", "clip\u200b,mme", r"representation: 'clip\u200b' is not a name"),
    "space-before-a-name": cell("clip,mme", " clip,mme", "line 3, column representation: ' clip' is not a name"),
    "space-after-a-name": cell("clip,mme", "clip,mme ", "line 3, column benchmark: 'mme ' is not a name"),
    "empty-name": cell("clip,mme", ",mme", "line 3, column representation: '' is not a name"),
    "benchmark-too-long": table(TABLE.replace("mme", 201 * "m"), "200 at most"),
    "benchmark-called-mean": table(TABLE.replace("mme", "mean"), "column benchmark: 'mean' stands for the average"),
    "unterminated-quote": cell("clip,mme", '"clip,mme', "line 11: not readable as CSV: unexpected end of data"),
    "text-after-a-quote": cell("clip,mme", '"cl"ip,mme', "line 3: not readable as CSV: ',' expected after '\"'"),
    "endless-cell": cell("clip,mme", "c" * 200_000 + ",mme", "line 3: not readable as CSV: field larger than"),
    "duplicate": table(f"{TABLE}\nclip,mme,51,0.11,10", "line 12: 'clip' on 'mme' is given twice, first on line 3"),
    "missing-combination": cell("\nclip,mme,51,0.11,10", "", "no line for representation 'clip' on benchmark 'mme'"),
    "one-representation": table("\n".join(TABLE.splitlines()[:3]), "only one representation, 'clip'"),
    "three-representations": table("\n".join(TABLE.splitlines()[:7]), "leaving one out needs four or more"),
    "constant-score": table(flat(2), "benchmark 'gqa' has the same score (7) for every representation"),
    "constant-alignment": table(flat(3), "benchmark 'gqa' has the same alignment (7) for every representation"),
    "constant-correspondence": table(flat(4), "correspondence is 7 everywhere; leave the cells empty"),
    "constant-but-for-rounding": table(
        "\n".join([HEADER, *(f"{name},gqa,{name},{0.1 + 1e-17 * (name == 1)!r},{name}" for name in range(5))]),
        "benchmark 'gqa' has the same alignment (0.1)",
    ),
    "correspondence-differs": cell(
        "51,0.11,10", "51,0.11,11", "line 3: 'clip' has correspondence 11, but 10 on line 2"
    ),
    "correspondence-half-empty": cell("51,0.11,10", "51,0.11,", "'clip' has correspondence empty, but 10 on line 2"),
}
SHEETS = {
    "empty": sheet("", "table.yaml: expected keys and values, found nothing"),
    "list": sheet("- a\n", "table.yaml: expected keys and values, found a list"),
    "binary": sheet(b"\xff\xfe\x00", "table.yaml: not UTF-8 text"),
    "broken": sheet("benchmarks: {gqa: [", "table.yaml: not readable as YAML: while parsing"),
    "tab": sheet("\talignment: A_cos", "cannot start any token"),
    "two-documents": sheet(f"{SHEET}---\n{SHEET}", "expected a single document"),
    "doubled-key": sheet(SHEET + "alignment: A_ll\n", "key 'alignment' is given twice (line 6)"),
    "doubled-benchmark": sheet(SHEET + "  gqa: {floor: 0, ceiling: 9}\n", "key 'gqa' is given twice (line 6)"),
    "no-such-date": sheet(
        SHEET + "title: 2024-13-01\n", "not readable as YAML: line 6: '2024-13-01' is no timestamp: month must be"
    ),
    "endless-number": sheet(SHEET + f"title: {'9' * 5000}\n", "is no int: Exceeds the limit"),
    "endless-nesting": sheet("[" * 500, "table.yaml: not readable as YAML: maximum recursion depth"),
    "code": sheet(SHEET + "title: !!python/name:os.system\n", "could not determine a constructor for the tag"),
    "control-character": sheet("title: \x07\n", "special characters are not allowed"),
    "misspelt-key": sheet(swapped(SHEET, "alignment", "alignement"), "'alignement'; did you mean 'alignment'?"),
    "misspelt-inner-key": sheet(
        swapped(SHEET, "gqa: {floor", "gqa: {flor"), "unknown key 'benchmarks.gqa.flor'; did you mean 'floor'?"
    ),
    "unknown-key": sheet(SHEET + "zzz: 1\n", "unknown key 'zzz'; known: title, source,"),
    "missing-key": sheet(swapped(SHEET, "alignment: A_cos\n", ""), "key 'alignment' is missing"),
    "unknown-definition": sheet(
        swapped(SHEET, "A_cos", "A_cosine"), "alignment: Input should be 'A_cos', 'A_ll', 'A_ll_train' or"
    ),
    "no-benchmarks": sheet(
        "alignment: A_ll\ncorrespondence: C\nbenchmarks: {}\n", "benchmarks: Dictionary should have"
    ),
    "benchmark-without-scale": sheet(swapped(SHEET, "mme: {floor: 0, ceiling: 100}", "mme:"), "benchmarks.mme: Input"),
    "benchmark-is-a-number": sheet(SHEET + "  7: {floor: 0, ceiling: 9}\n", "benchmarks.7.[key]: Input should be a"),
    "floor-is-text": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: low"), "benchmarks.gqa.floor: Input should be"
    ),
    "floor-is-a-quoted-number": sheet(swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: '0'"), "valid number, got '0'"),
    "floor-is-a-truth": sheet(swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: yes"), "valid number, got True"),
    "ceiling-is-nan": sheet(
        swapped(SHEET, "gqa: {floor: 0, ceiling: 100", "gqa: {floor: 0, ceiling: .nan"), "finite number"
    ),
    "ceiling-is-huge": sheet(
        swapped(SHEET, "gqa: {floor: 0, ceiling: 100", "gqa: {floor: 0, ceiling: 1e300"), "less than or"
    ),
    "floor-above-ceiling": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: 200"), "benchmarks.gqa: floor 200 must be below ceiling 100"
    ),
    "floor-at-ceiling": sheet(
        swapped(SHEET, "gqa: {floor: 0", "gqa: {floor: 100"), "benchmarks.gqa: floor 100 must be below ceiling 100"
    ),
    "benchmark-missing": sheet(SHEET.replace("  mme: {floor: 0, ceiling: 100}\n", ""), "no floor and ceiling for mme"),
    "benchmark-extra": sheet(
        SHEET + "  pope: {floor: 0, ceiling: 100}\n", "names pope, of which the table has no line"
    ),
    "score-above-ceiling": sheet(
        swapped(SHEET, "mme: {floor: 0, ceiling: 100", "mme: {floor: 0, ceiling: 60"),
        "table.csv, line 11, column score: 63 is above the ceiling 60 of 'mme'",
    ),
    "correspondence-denied": sheet(
        swapped(SHEET, "correspondence: C", "correspondence: none"), "says correspondence: none"
    ),
    "folder": command(FIT, "table.yaml: Is a directory", sheet_is_a_folder),
}
