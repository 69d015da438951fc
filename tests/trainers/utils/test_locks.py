"""Locks: their files are never links, folders or pipes, and who waits says for whom."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.errors import LockError
from trainers.utils import locks
from trainers.utils.locks import Locks

OTHERS = {
    "a link": lambda path, other: path.symlink_to(other),
    "a link to nothing": lambda path, other: path.symlink_to(other.with_name("nothing")),
    "a hard link": lambda path, other: path.hardlink_to(other),
    "a folder": lambda path, other: path.mkdir(),
    "a pipe": lambda path, other: os.mkfifo(path),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_not_a_plain_file_is_refused_and_left_alone(tmp_path: Path, make: Callable[..., None]) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "locks"
    precious.write_text("mine")
    folder.mkdir()
    make(folder / "ask", precious)
    there = Locks(folder)
    for take in (lambda: there.claim("ask").__enter__(), lambda: there.exclusive("ask").__enter__()):
        with pytest.raises(LockError, match=f"lock {folder / 'ask'}: ") as error:
            take()
        assert error.value.line.count("\n") == 0
    with pytest.raises(LockError):
        there.held("ask")
    assert precious.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locks", "precious"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("mine")
    with pytest.raises(LockError, match="no folder for locks: "), Locks(tmp_path / "locks").claim("ask"):
        pass
    assert (tmp_path / "locks").read_text() == "mine"


def test_looking_makes_no_files(tmp_path: Path) -> None:
    there = Locks(tmp_path / "locks")
    assert (there.held("ask"), there.holder("ask")) == (False, None)
    assert list(tmp_path.iterdir()) == []
    with there.claim("ask"):
        assert there.holder("ask") == locks.who()
    assert not there.held("ask")


def test_a_holder_that_nobody_can_read_is_a_process(tmp_path: Path) -> None:
    there = Locks(tmp_path)
    with there.claim("ask"):
        (tmp_path / "ask").write_bytes(b"\xff\x1b[2J")
        assert there.holder("ask") == "a process"


HOLD = """
import signal, sys
from pathlib import Path
from trainers.utils.locks import Locks
with Locks(Path(sys.argv[1])).exclusive("ask"):
    print("held", flush=True)
    signal.pause()
"""


def test_who_waits_for_a_frozen_process_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)

    class End(logging.Handler):
        """The frozen process is ended when somebody has said that it is waited for, however long that takes."""

        def emit(self, record: logging.LogRecord) -> None:
            process.kill()

    ending = End()
    logging.getLogger("acsearch").addHandler(ending)
    try:
        with Locks(tmp_path).exclusive("ask"):
            pass
    finally:
        logging.getLogger("acsearch").removeHandler(ending)
        process.kill()
        process.communicate()
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"process {process.pid}" in said
    assert str(tmp_path / "ask") in said
