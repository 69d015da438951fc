"""Files that are whole or not there, and writers that die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainers.utils.atomic import atomic_write, remove_stale

WRITE = """
import sys, time; from pathlib import Path; from trainers.utils.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as fresh:
    fresh.write_text("half")
    print("writing", flush=True)
    time.sleep(3600)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as fresh:
        fresh.write_text("one")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as fresh:
        fresh.write_text(str(1 / 0))
    assert path.read_text() == "one"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize(
    "by", [lambda folder: remove_stale(folder), lambda folder: atomic_write(folder / "file").__enter__()]
)
def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path, by: object) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "file")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    half = f".file.{writer.pid}"
    try:
        remove_stale(tmp_path)
        assert names(tmp_path) == [half]
    finally:
        writer.kill()
        writer.communicate()
    assert names(tmp_path) == [half]
    opened = by(tmp_path)  # type: ignore[operator]
    assert half not in names(tmp_path)
    del opened
