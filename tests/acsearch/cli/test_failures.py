"""Folders, files and disks that are not ours to write or read: one line that says what and what to do, no traceback."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acsearch.cli.failures import explain
from support.doctor import VARIABLES

SOMEBODY = 65534  # the user "nobody", whose files the tests' user sees as any user does
READING = ("list", "show s", "status s", "report s --out ours/s.html")
WRITING = (
    *("resume s --budget 2", "sync s", "report s", "start law_v1 --name t", "start law_v1 --name s --resume"),
    "import ours/s.tar.zst",
)
_RUN = "from acsearch.cli.main import main; main()"


def run(folder: Path, line: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    command = [*wrapper, sys.executable, "-c", _RUN, *line.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def run_as_a_user(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Without root's right to everybody's files."""
    return run(folder, line, "setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


def run_mounted(folder: Path, line: str, mount: str) -> subprocess.CompletedProcess[str]:
    """Where something is mounted that nobody else sees."""
    return run(folder, line, "unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', "sh")


def assert_one_line(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert any(one in done.stderr for one in says), done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study `s` in acsearch-runs, and a bundle of it."""
    folder = tmp_path_factory.mktemp("failures")
    (folder / "ours").mkdir()
    for line in ("study start law_v1 --name s --budget 1", "study export s ours/s.tar.zst"):
        done = run(folder, line)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def as_root() -> None:
    if os.geteuid() or not shutil.which("setpriv") or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("needs root on Linux, for files of another user and for mounts")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def give_away(home: Path, mode: int) -> None:
    for path in (home, *home.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY)
    home.chmod(mode)


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("line", [*READING, *WRITING, "export s ours/copy.tar.zst"])
def test_a_home_that_nobody_else_may_read(folder: Path, line: str) -> None:
    give_away(folder / "acsearch-runs", 0o700)
    assert_one_line(run_as_a_user(folder, f"study {line}"), "Permission denied; let its owner give you access")
    assert not (folder / "ours" / "s.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("line", [*READING, "export s ours/copy.tar.zst"])
def test_what_others_may_read_can_be_looked_at(folder: Path, line: str) -> None:
    give_away(folder / "acsearch-runs", 0o755)
    done = run_as_a_user(folder, f"study {line}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("line", WRITING)
def test_what_others_may_only_read_is_not_worked_on(folder: Path, line: str) -> None:
    give_away(folder / "acsearch-runs", 0o755)
    assert_one_line(
        run_as_a_user(folder, f"study {line}"),
        "may not be written by us: make",
        "s.html: cannot be written: Permission denied",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("line", WRITING)
def test_a_read_only_mount(folder: Path, line: str) -> None:
    mount = "mount --bind acsearch-runs acsearch-runs; mount -o remount,ro,bind acsearch-runs"
    assert_one_line(run_mounted(folder, f"study {line}", mount), "may not be written by us", "Read-only file system")


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(("kilobytes", "what"), [(64, "--storage"), (300, "--tracking")])
def test_a_full_disk(folder: Path, kilobytes: int, what: str) -> None:
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs ours; cd ours"
    done = run_mounted(folder, "study start law_v1 --name t", mount)
    assert_one_line(done, "disk is full: make room")
    assert what in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
def test_two_users_share_a_database(folder: Path) -> None:
    """The one who made it, under umask 022, let the other write; files of its locks stayed as they were."""
    home = folder / "acsearch-runs"
    give_away(home, 0o777)
    for path in home.rglob("*"):
        path.chmod(path.stat().st_mode | (0o002 if path.is_dir() or "locks" not in str(path) else 0))
    assert any(path.stat().st_mode & 0o022 == 0 for path in home.rglob("*"))
    done = run_as_a_user(folder, "study resume s --budget 2")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_report_that_cannot_be_written_leaves_the_old_one(folder: Path) -> None:
    assert run(folder, "study report s --out ours/s.html").returncode == 0
    old = (folder / "ours" / "s.html").read_bytes()
    there = sorted(folder.rglob("*"))
    done = run(folder, "study report s --out ours/s.html", "sh", "-c", 'ulimit -f 8; exec "$@"', "sh")
    assert_one_line(done, "ours/s.html: cannot be written: File too large")
    assert (folder / "ours" / "s.html").read_bytes() == old
    assert sorted(folder.rglob("*")) == there


def _raise(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EROFS, "x", "/mnt/a"), "/mnt/a: Read-only file system; use a folder that can be written"),
        (OSError(errno.ENOSPC, "x"), "a file: No space left on device; make room"),
        (
            _raise(RuntimeError("wrapped"), PermissionError(errno.EACCES, "x", "/mnt/a")),
            "/mnt/a: Permission denied; let",
        ),
        (ValueError("ours"), None),
        (FileNotFoundError(errno.ENOENT, "x", "/mnt/a"), None),
    ],
)
def test_what_is_not_ours_is_explained_and_what_is_ours_is_not(error: BaseException, says: str | None) -> None:
    said = explain(error)
    assert (said is None) if says is None else str(said).startswith(says)
