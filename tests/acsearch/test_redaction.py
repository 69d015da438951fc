"""Secrets are not shown."""

from __future__ import annotations

import io
import json
import re
import sys
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acsearch import redaction
from acsearch.redaction import guard, redact, register_secret, without_secrets
from acsearch.storage.home import Home
from support.doctor import ENCODED, SECRET, set_variables

pytestmark = pytest.mark.usefixtures("alone")
PASSWORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_registered", set())
    monkeypatch.setattr(redaction, "_shown", {})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql+psycopg://me:{ENCODED}@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        (f"http://me:a@{SECRET}@host/", "http://me:***@host/"),
        (f"http://{ENCODED}@host/", "http://***@host/"),
        (f"http://{ENCODED}:@host/", "http://***@host/"),
        (f"postgresql://host/db?user=me&password={ENCODED}", "postgresql://host/db?***"),
        (f"postgresql://me:it's {SECRET}@host/db", "postgresql://me:***@host/db"),
        (f"postgresql://me@corp:{SECRET}@host/db", "postgresql://me@corp:***@host/db"),
        (f"postgresql://me:{SECRET}?{SECRET}@host/db", "postgresql://***"),
        (f"postgresql://host/db?pwd={SECRET}", "postgresql://host/db?***"),
        (f"postgresql://host/db?password=a@{SECRET}", "postgresql://***"),
        (f"postgresql://me:{ENCODED}/db", "postgresql://***"),  # the host was forgotten
        (f"mssql+pyodbc:///?odbc_connect=SERVER%3Dhost%3BPWD%3D{ENCODED}", "mssql+pyodbc:///?***"),
        (f"https://host/x?api_key={ENCODED}", "https://host/x?***"),
        (f"databricks://{SECRET}@workspace", "databricks://***@workspace"),
        (f"me:{SECRET}@host/db", "(not a URL)"),
        (f"host/db?password={SECRET}", "(not a URL)"),
        ("postgresql://me@[::1]:5432,other:5433/db", "postgresql://me@[::1]:5432,other:5433/db"),
        ("sqlite:////home/me@corp/studies.db", "sqlite:////home/me@corp/studies.db"),
        ("s3://bucket/clip@336", "s3://bucket/clip@336"),
        ("mlruns", "mlruns"),
    ],
)
def test_of_an_address_only_the_parts_that_are_no_secret_are_shown(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert redact(shown) == shown
    if "://" in address and " " not in address:
        assert without_secrets(f"at '{address}': no") == f"at '{shown}': no"


def test_what_drivers_quote_alone_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(
        monkeypatch, AWS_SECRET_ACCESS_KEY="Amazon/S3cret", ACSEARCH_STORAGE=f"postgresql://me:{ENCODED}@host/db"
    )
    assert Home().storage_url.endswith(f"{ENCODED}@host/db")
    said = without_secrets(f"bad {SECRET}, bad {ENCODED}, key='Amazon/S3cret'")
    assert said == "bad ***, bad ***, key='***'"


def test_options_and_connection_strings_are_not_quoted_alone() -> None:
    inner = quote_plus("DRIVER={ODBC Driver 18};SERVER=host;PWD={a;long'secret}")
    register_secret(f"mssql+pyodbc:///?odbc_connect={inner}&autocommit=true")
    register_secret("https://host/x?api_key=another%2Fsecret")
    said = without_secrets(f"no: {inner}; long'secret; LONG; another/secret, another%2fsecret; ODBC Driver 18, host")
    assert said == "no: ***; ***; LONG; ***, ***; ODBC Driver 18, host"


@settings(deadline=None)
@given(PASSWORDS.filter(lambda one: len(one.strip()) >= 8 and not one.isalpha()))
@example('it\'s a "secret"')
@example("with  two\nlines, each of them long")
@example("percent%41percent%2F")
def test_a_password_is_not_shown_however_it_is_written(password: str) -> None:
    redaction._registered.clear()  # of the example before
    redaction._shown.clear()
    register_secret(f"postgresql://me:{quote(password, safe='')}@host/db")
    ways = [password, quote(password), quote(password, safe=""), quote(password, safe=" +"), quote_plus(password)]
    ways += [repr(password)[1:-1], json.dumps(password)[1:-1], password.replace("'", "\\'"), *password.splitlines()[:1]]
    for way in (one for one in ways if len(one.strip()) >= 8 and not one.isalpha()):
        for collapsed in (way, " ".join(way.split())):
            assert re.fullmatch(r"said:\s?\*\*\*\s?was wrong", without_secrets(f"said: {collapsed} was wrong"))


@settings(deadline=None)
@given(PASSWORDS)
def test_a_raw_password_is_not_shown_in_its_address(password: str) -> None:
    """Somebody forgot to encode it. What is shown does not depend on it, but for being so little as the scheme."""
    for address, clear in (
        (f"postgresql://me:{password}@host/db", "postgresql://me:***@host/db"),
        (f"https://me:{password}@host/db", "https://me:***@host/db"),
        (f"databricks://t{password.replace(':', '')}@host", "databricks://***@host"),
        (f"mysql://host/db?pwd={password}", "mysql://host/db?***"),
    ):
        assert redact(address) in (clear, address.partition("://")[0] + "://***")


@pytest.mark.parametrize("password", ["a", "me", "study", "postgres", "storage"])
def test_a_password_that_is_a_word_cannot_be_told_from_what_is_missing(password: str) -> None:
    address = register_secret(f"postgresql://me:{password}@host/db")
    text = "study 'law_v1': a postgresql storage says to me: fatal"
    assert without_secrets(f"{text} ({address})") == f"{text} (postgresql://me:***@host/db)"
    if len(password) >= 3:
        assert without_secrets(f"bad '{password}', password={password}") == "bad '***', password=***"


def test_all_that_is_printed_passes_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["acsearch", f"--storage=postgresql://me:{ENCODED}@host/db"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    guard()
    guard()
    print(f"a {SECRET}")
    print(f"b {SECRET}", file=sys.stderr)
    assert [one.getvalue() for one in streams.values()] == ["a ***\n", "b ***\n"]
