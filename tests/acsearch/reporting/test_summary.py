"""The note and the table of the MLflow record: names and sources are mere text in them."""

from __future__ import annotations

import csv
import dataclasses
import io
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from acsearch.config.study_file import load_study
from acsearch.reporting.report import page
from acsearch.reporting.summary import as_markdown, markdown, recommendation_csv
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study.snapshot import Snapshot
from acsearch.study.start import start_study
from acsearch.study.study import Study

HOSTILE = "![x](http://x/y.png) [click](javascript:alert(1)) <img src=x onerror=alert(1)> **b** `c` | a\n# h\n\n[r]: javascript:1"  # noqa: E501
NAMES = ("=cmd|'/C calc'!A0", "@SUM(1)|x", "<b>[x](javascript:alert(1))", "$\\frac{$", "_hidden", "x" * 150)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    home, config = Home(f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"), load_study("law_v1")
    study = start_study(home.open_storage(create=True), home.claims("s"), name="s", config=config, budget=3)
    Study(study, RecordedRunner(config.table), lambda event: None).run()
    found = study.snapshot()
    names = (*NAMES, *found.table.representations[len(NAMES) :])
    metadata = dataclasses.replace(found.table.metadata, source=HOSTILE, llm=HOSTILE)
    return dataclasses.replace(
        found,
        title=HOSTILE,
        table=dataclasses.replace(found.table, representations=names, metadata=metadata),
        finetunes=tuple(dataclasses.replace(one, representation=names[one.candidate or 0]) for one in found.finetunes),
    )


def parsed(text: str) -> list[Token]:
    """The tokens of Markdown with tables, HTML and bare links."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [inner for token in tokens for inner in (token, *(token.children or ()))]


def test_the_note_has_no_image_link_or_html(snapshot: Snapshot) -> None:
    tokens = parsed(markdown(snapshot))
    kinds = {token.type for token in tokens}
    assert not kinds & {"image", "link_open", "html_inline", "html_block", "code_inline", "fence", "strong_open"}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h2"]
    cells = [token.content for before, token in pairwise(tokens) if before.type == "td_open"]
    assert len(cells) == 6 * 13  # no | in a name made another cell


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text() | st.text("[]()!<>&`*_~|\\x:/#-+ \n", max_size=40))
def test_any_text_is_text_in_markdown(text: str) -> None:
    tokens = [token for token in parsed(f"- {as_markdown(text)}.") if token.type != "inline"]
    allowed = {"bullet_list_open", "list_item_open", "paragraph_open", "text", "text_special", "entity"}
    allowed |= {kind.replace("open", "close") for kind in allowed}
    begins = text.split()[:1]
    if not begins or not begins[0].startswith(tuple("#-+0123456789=")):  # such a line may be a heading or a list
        assert {token.type for token in tokens} <= allowed


def test_the_table_is_safe_for_spreadsheets(snapshot: Snapshot) -> None:
    rows = list(csv.DictReader(io.StringIO(recommendation_csv(snapshot))))
    names = {row["representation"] for row in rows}
    assert {"'" + NAMES[0], "'" + NAMES[1], *NAMES[2:]} <= names
    assert all(float(row["p_best"]) >= 0 for row in rows)


def test_the_report_takes_every_name(snapshot: Snapshot, recwarn: pytest.WarningsRecorder) -> None:
    text = page(snapshot)
    assert f'<td class="name">{"x" * 150}</td>' in text
    assert "x" * 33 not in text.split("<figure>", 1)[1].split("<h2>Finetunes")[0]
    assert not [str(one.message) for one in recwarn if "Glyph" in str(one.message)]
