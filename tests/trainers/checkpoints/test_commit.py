"""Folders that are committed whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.training_jobs import Interrupted
from trainers.checkpoints import commit


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "one"

    def write() -> None:
        with commit.commit_folder(folder) as fresh:
            (fresh / "a").write_text("a")
            assert not folder.exists()
            raise Interrupted

    with pytest.raises(Interrupted):
        write()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".one.123").mkdir()  # of a process that died
    with commit.commit_folder(folder) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "a").write_text("a")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert set(json.loads((folder / commit.MANIFEST).read_text())) == {"deep/a"}
    assert commit.committed(folder)
    for number in range(5):
        with commit.commit_folder(commit.step_folder(tmp_path, 10**number)) as fresh:
            (fresh / "a").write_text("a")
    commit.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00001000", "step-00010000"]
