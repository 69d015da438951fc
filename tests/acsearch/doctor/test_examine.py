"""`acsearch doctor`: the default setup is all right; what is wrong on this machine is said once."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from acsearch.doctor.examine import examine
from acsearch.doctor.finding import Finding, within
from acsearch.doctor.machine import folder
from acsearch.storage.home import Home
from support import ROOT
from support.doctor import ACSEARCH, ENCODED, assert_one_failure, finding_about, unused_address

pytestmark = pytest.mark.usefixtures("alone")


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*ACSEARCH, "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_the_default_setup_is_all_right_and_stays_as_it_was(tmp_path: Path) -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.split("\nWhat to do:")[0].splitlines() if line]
    whats = ["settings", "home", "storage", "MLflow", "work store", "python", "packages", "torch", "GPU", "Slurm"]
    assert [line[2:14].strip() for line in lines] == whats
    assert {line[0] for line in lines[:8]} == {"✓"}
    assert not list(tmp_path.iterdir())


def test_a_check_that_hangs_is_given_up() -> None:
    def hang(home: Home) -> list[Finding]:
        threading.Event().wait()
        return []

    assert_one_failure(within(0.1, "it", hang, Home()), "no answer within 0.1 s", "")


def test_the_home_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "acsearch-runs").write_text("a file")
    assert_one_failure(folder(Home()), f"{tmp_path}/acsearch-runs: Not a directory", "ACSEARCH_HOME")


def test_settings_that_cannot_be_read_are_said_once(tmp_path: Path) -> None:
    (tmp_path / "acsearch.toml").write_text("stroage = 'x'")
    findings = examine(Home())
    assert_one_failure(findings, "did you mean 'storage'?", "fix the file")
    assert "not checked" in finding_about(findings, "storage").found
    assert finding_about(findings, "torch").state == "ok"


def test_a_password_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "acsearch.toml").write_text(f'storage = "postgresql+psycopg://me:{ENCODED}@{unused_address()}/db"')
    (tmp_path / "acsearch.toml").chmod(0o644)
    found = finding_about(examine(Home()), "settings")
    assert (found.state, found.todo) == ("warn", f"chmod 600 {tmp_path}/acsearch.toml")
    (tmp_path / "acsearch.toml").chmod(0o600)
    assert finding_about(examine(Home()), "settings").state == "ok"
