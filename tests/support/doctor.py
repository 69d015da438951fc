"""What the doctor found, and what it is told."""

from __future__ import annotations

import socket
import sys

import pytest

from acsearch.doctor.finding import Finding

SECRET = "Recognisable/S3cret"  # the slash has to be encoded in addresses, where it may also be forgotten
ENCODED = SECRET.replace("/", "%2F")
ACSEARCH = [  # a command whose doctor gives its checks as long as they take on a machine that has much to do
    sys.executable,
    "-c",
    "import acsearch.doctor.examine as doctor; doctor.LIMIT = 600.0; from acsearch.cli.main import main; main()",
]
VARIABLES = ("ACSEARCH_", "MLFLOW_TRACKING_", "MLFLOW_S3_", "AWS_", "PG")  # what says where things are


def set_variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def finding_about(findings: list[Finding], what: str) -> Finding:
    (found,) = (one for one in findings if one.what == what)
    return found


def assert_one_failure(findings: list[Finding], says: str, todo: str) -> None:
    """One thing is, and it says this and to do this."""
    (wrong,) = (one for one in findings if one.state == "fail")
    assert says in wrong.found
    assert todo in wrong.todo


def unused_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
