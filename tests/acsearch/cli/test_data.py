"""Manifests are indexed before anything is trained on them: one by itself, or all of a study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from acsearch.cli import main as cli
from support import tiny
from support.tiny_samples import say

STUDY = (
    tiny.STUDY.replace(
        """  prepare:
    call: "studies.micro.data:prepare"
    sizes: {captions: 24, heldout: 8, instruct: 24, per_benchmark: 12, pairs: 12, pair_images: 8}
""",
        "  data: data\n",
    )
    .replace("captions_heldout.parquet", "turns-1.json")
    .replace("captions.parquet", "turns-1.json")
)


def said(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What a command prints and complains about."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["acsearch", "data", "index", *words])
        with pytest.raises(SystemExit):
            cli.main()
    return capfd.readouterr()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with data of its own: captions, and conversations of which one row cannot be used."""
    monkeypatch.chdir(tmp_path)
    tiny.llm(tmp_path / "llm")
    tiny.encoders(tmp_path)
    tiny.manifest(tmp_path / "data", turns=1)
    rows = json.loads(tiny.manifest(tmp_path / "data").read_text())
    (tmp_path / "data" / "odd.json").write_text(json.dumps([*rows, say("<image>\nwhat", name="odd")]))
    drop = "    data: odd.json\n    on_bad_sample: drop\n    max_dropped: 0.1\n"
    given = STUDY.replace("    data: instruct.parquet\n", drop)
    (tmp_path / "study.yaml").write_text(given)
    return tmp_path


@pytest.mark.usefixtures("study")
def test_a_study_s_manifests_are_indexed_once(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capfd, ".")
    lines = out.splitlines()
    assert lines[0].endswith("turns-1.json: 24 samples, 24 with an image, 48 text tokens, 24 supervised")
    assert "odd.json: 24 samples, 21 with an image" in lines[1]
    assert re.search(
        r"left out: .*1 of 25 samples .*sample odd: no supervised token.*; all are in .*dropped.json", lines[2]
    )
    assert len(lines) == 3
    before = {path: path.stat().st_mtime_ns for path in Path("acsearch-runs").rglob("*.npy")}
    assert said(capfd, ".")[0] == out
    assert {path: path.stat().st_mtime_ns for path in Path("acsearch-runs").rglob("*.npy")} == before


@pytest.mark.usefixtures("study")
def test_a_manifest_by_itself_shares_the_study_s_index(capfd: pytest.CaptureFixture[str]) -> None:
    said(capfd, ".")
    before = sorted(Path("acsearch-runs").rglob("*.npy"))
    out, _ = said(capfd, "data/turns-1.json", "--llm", "llm", "--template", "plain")
    assert "24 samples" in out
    assert sorted(Path("acsearch-runs").rglob("*.npy")) == before
    _, err = said(capfd, "data/odd.json", "--llm", "llm", "--template", "chat")
    assert "1 of 25 samples can't be trained on: sample odd: no supervised token" in err


def test_a_study_of_a_table_has_no_samples(capfd: pytest.CaptureFixture[str]) -> None:
    assert "looks its finetunes up in a table; it has no samples" in said(capfd, "law_v1")[1]
