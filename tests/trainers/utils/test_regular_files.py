"""A file that somebody names is read where it is a regular one, and refused at once where it is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.data.manifest import open_manifest
from trainers.encoders import load_registry
from trainers.encoders.images import open_image
from trainers.errors import AcsearchError, ConfigError
from trainers.job import read_job
from trainers.utils.digest import digest_of
from trainers.utils.regular_files import open_regular, read_bytes, read_text
from trainers.utils.strict_yaml import StrictModel, read_yaml

NO_FILE = "not a regular file"


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\ntwo\n")
    (tmp_path / "link").symlink_to("a")
    assert read_bytes(tmp_path / "link") == b"one\r\ntwo\n"
    assert read_text(tmp_path / "link") == "one\ntwo\n"


def test_everything_else_is_refused_without_waiting(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (pipe(tmp_path / "pipe"), Path("/dev/zero"), Path("/dev/null"), tmp_path / "link"):
        with pytest.raises(OSError, match=NO_FILE):
            open_regular(path)
    for path in (tmp_path, tmp_path / "socket", tmp_path / "gone"):
        with pytest.raises(OSError, match=r"Is a directory|No such|not a regular"):
            open_regular(path)


READERS: dict[str, Callable[[Path], object]] = {
    "yaml": lambda path: read_yaml(path, StrictModel),
    "digest": digest_of,
    "encoders": load_registry,
    "job": read_job,
    "manifest": lambda path: list(open_manifest(path)),
    "image": open_image,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_files_of_users_refuses_pipes_and_devices(reader: str, tmp_path: Path) -> None:
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for path in (pipe(tmp_path / "pipe.json"), tmp_path / "zero.json"):
        with pytest.raises(AcsearchError, match=NO_FILE) as raised:
            READERS[reader](path)
        assert str(path) in raised.value.line
        assert len(raised.value.line.splitlines()) == 1


def test_a_parquet_manifest_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AcsearchError, match=NO_FILE):
        list(open_manifest(pipe(tmp_path / "pipe.parquet")))


def test_a_folder_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        digest_of(tmp_path)


@pytest.mark.parametrize(
    "command",
    ["study import pipe", "study import /dev/zero", "law fit table.csv", "law fit pipe", "study start study.yaml"],
)
def test_on_the_command_line(command: str, tmp_path: Path) -> None:
    pipe(tmp_path / "pipe")
    pipe(tmp_path / "table.yaml")
    (tmp_path / "table.csv").write_text("representation,benchmark,score,alignment,correspondence\n")
    (tmp_path / "study.yaml").write_text("name: mine\ntable: table.csv\n")
    arguments = [sys.executable, "-m", "acsearch", *command.split()]
    environment = os.environ | {"ACSEARCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()
