"""Passwords of any characters in addresses, given to every command that takes one: nothing said depends on them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from acsearch import redaction
from acsearch.cli import main as cli
from support.doctor import VARIABLES, unused_address
from support.fuzzing import cases

AT = unused_address()
ADDRESSES = (
    f"postgresql+psycopg://me:{{}}@{AT}/db",
    f"postgresql+psycopg://me@corp:{{}}@{AT}/db",
    f"postgresql+psycopg://{AT}/db?user=me&password={{}}",
    f"postgresql+nodriver://me:{{}}@{AT}/db",
    "mysql+pymysql://me:{}@host/db",
    "mssql+pyodbc:///?odbc_connect=SERVER%3Dhost%3BPWD%3D{}",
    f"http://me:{{}}@{AT}",
    f"http://{{}}@{AT}",
    f"http://{AT}/?api_key={{}}",
    "databricks://{}@workspace",
    "me:{}@host/db",
    "host/db?pwd={}",
)
STORAGE = (
    "list",
    "show s",
    "status s",
    "resume s",
    "report s",
    "sync s",
    "export s s.tar.zst",
    "start law_v1 --name n",
    "import s-bundle.tar.zst",
)
COMMANDS = tuple(
    [f"study {line} --storage={{}}" for line in STORAGE]
    + [f"study {line} --tracking={{}}" for line in ("resume s", "sync s", "start law_v1 --name n")]
    + ["trial run s 0 --storage={}", "study list {}", "study show s", "ACSEARCH_STORAGE study list"]
    + ["ACSEARCH_TRACKING study sync s", "MLFLOW_TRACKING_URI study sync s", "ACSEARCH_WORK study sync s"]
)
DOCTOR = ("doctor --storage={}", "doctor --tracking={}", "ACSEARCH_WORK doctor", "MLFLOW_TRACKING_URI doctor")
REFERENCE = "the-Reference1"
PASSWORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30),
    st.text("'\"\\ @/?#%:&=;[]{}é\n", min_size=1, max_size=12),
    st.sampled_from(["a", "me", "study", "postgres", "password"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study `s` has been run, and exported to `s-bundle.tar.zst`."""
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in ("start law_v1 --name s --budget 1", "export s s-bundle.tar.zst"):
            patch.setattr(sys, "argv", ["acsearch", "study", *line.split()])
            with pytest.raises(SystemExit, match="0"):
                cli.main()
    return folder


def said(line: str, address: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What a command says in a folder, where the address stands for `{}` or is a variable's value."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(VARIABLES)]:
            patch.delenv(name)
        patch.setattr(redaction, "_registered", set())
        patch.setattr(redaction, "_shown", {}, raising=False)
        patch.chdir(folder)
        first, *words = line.split()
        if first.isupper():
            patch.setenv(first, address)
        else:
            words = [first, *words]
        patch.setattr(sys, "argv", ["acsearch", *(word.replace("{}", address) for word in words)])
        with pytest.raises(SystemExit):
            cli.main()
    return re.sub(r"\d\d:\d\d:\d\d|\d+ GB free", "(varies)", "".join(capfd.readouterr()))


def assert_secret(
    password: str, address: str, line: str, folder: Path, capfd: pytest.CaptureFixture[str], *, is_raw: bool
) -> None:
    capfd.readouterr()
    encoded = quote(password, safe="")
    expected = said(line, address.format(REFERENCE), folder, capfd)
    assert said(line, address.format(encoded), folder, capfd) == expected
    if is_raw:
        text = said(line, address.format(password), folder, capfd)
        assert len(password.strip()) < 8 or password.isalpha() or password not in text
    assert not [path for path in folder.rglob("*") if path.is_file() and REFERENCE.encode() in path.read_bytes()]


@cases(400, st.tuples(PASSWORDS, st.sampled_from(ADDRESSES), st.sampled_from(COMMANDS), st.booleans()))
def test_what_is_said_does_not_depend_on_a_password(
    folder: Path, capfd: pytest.CaptureFixture[str], damaged: tuple[str, str, str, bool]
) -> None:
    password, address, line, is_raw = damaged
    assert_secret(password, address, line, folder, capfd, is_raw=is_raw)


@cases(60, st.tuples(PASSWORDS, st.sampled_from(ADDRESSES), st.sampled_from(DOCTOR), st.booleans()))
def test_what_the_doctor_says_does_not_depend_on_a_password(
    folder: Path, capfd: pytest.CaptureFixture[str], damaged: tuple[str, str, str, bool]
) -> None:
    password, address, line, is_raw = damaged
    assert_secret(password, address, line, folder, capfd, is_raw=is_raw)
