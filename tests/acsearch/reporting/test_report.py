"""The HTML report: complete, escaped, and one file that loads nothing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from acsearch.config.study_file import load_study
from acsearch.errors import StudyError
from acsearch.reporting.report import page
from acsearch.reporting.summary import caveats, headline, interval, ranking
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study.snapshot import Snapshot
from acsearch.study.start import start_study
from acsearch.study.study import Study

HOSTILE = """<script>alert("1 & 2 's")</script>"""


class Page(HTMLParser):
    """The rows of each table, the list items, and the tags and addresses of a page; text in SVG does not count."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.items: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th", "li"):
            self._cell = []

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.tables[-1][-1].append("".join(self._cell or []))
        elif tag == "li":
            self.items.append("".join(self._cell or []))
        if tag in ("td", "th", "li"):
            self._cell = None


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A study of three finetunes, with names that an unescaped page would run."""
    home, config = Home(f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"), load_study("law_v1")
    study = start_study(home.open_storage(create=True), home.claims("s"), name="s", config=config, budget=3)
    Study(study, RecordedRunner(config.table), lambda event: None).run()
    found = study.snapshot()
    names = (HOSTILE, *found.table.representations[1:])
    return dataclasses.replace(
        found,
        title=HOSTILE,
        table=dataclasses.replace(found.table, representations=names),
        finetunes=tuple(
            dataclasses.replace(one, representation=names[one.candidate or 0], state=HOSTILE) for one in found.finetunes
        ),
    )


def test_the_page_says_all_that_is_known(snapshot: Snapshot) -> None:
    read = Page(page(snapshot))
    assert read.items == [*headline(snapshot), *caveats(snapshot)]
    best, finetunes, terms, weights = read.tables
    assert [row[0] for row in best[1:]] == [row["representation"] for row in ranking(snapshot)]
    for shown, row in zip(best[1:], ranking(snapshot), strict=True):
        assert shown[1:4] == [f"{row['expected']:.2f}", interval(row), f"{row['p_best']:.2f}"]
        assert shown[5] == f"{row['A']:.3f}"
        assert shown[-1] == ("yes" if row["finetuned"] else "")
    benchmarks = [*snapshot.table.benchmarks]
    assert finetunes[0] == ["#", "representation", "state", *benchmarks]
    assert [row[:3] for row in finetunes[1:]] == [
        [str(number), one.representation, HOSTILE] for number, one in enumerate(snapshot.finetunes, start=1)
    ]
    assert [float(cell) for cell in finetunes[1][3:]] == pytest.approx(
        [snapshot.finetunes[0].points[name] for name in benchmarks], abs=0.005
    )
    assert sum(float(row[1]) for row in terms[1:]) == pytest.approx(1, abs=0.05)
    assert [row[0] for row in weights[1:]] == benchmarks
    assert all(re.fullmatch(r"-?\d+\.\d \(-?\d+\.\d to -?\d+\.\d\)", cell) for row in weights[1:] for cell in row[1:])


def test_names_are_text_and_nothing_is_loaded(snapshot: Snapshot) -> None:
    text = page(snapshot)
    read = Page(text)
    assert "<h1>&lt;script&gt;" in text
    assert not read.tags & {"script", "img", "link", "iframe"}
    assert all(address.startswith("#") for address in read.addresses)
    assert text.count("<svg ") == 3


def test_there_is_nothing_to_report_before_all_are_scored(snapshot: Snapshot) -> None:
    unknown = dataclasses.replace(snapshot.table, alignment=np.full_like(snapshot.table.alignment, np.nan))
    with pytest.raises(StudyError, match="still being scored"):
        page(dataclasses.replace(snapshot, table=unknown))
