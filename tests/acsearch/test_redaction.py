"""Secrets are not shown."""

from __future__ import annotations

import pytest

from acsearch.redaction import redact, without_secrets
from acsearch.storage.home import Home
from support.doctor import ENCODED, SECRET, set_variables

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{ENCODED}@host:5432/db",
        f"at postgresql://me:{SECRET}@host/db: no",
        f"http://me:a@{SECRET}@host/",
        f"http://{ENCODED}@host/",
        f"postgresql://host/db?user=me&password={ENCODED}",
    ],
)
def test_addresses_are_shown_without_what_is_secret(text: str) -> None:
    assert "cret" not in redact(text)
    assert "host" in redact(text)
    assert redact("s3://bucket/clip@336 http://host:5000/x") == "s3://bucket/clip@336 http://host:5000/x"


def test_what_drivers_quote_alone_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(
        monkeypatch, AWS_SECRET_ACCESS_KEY="Amazon/S3cret", ACSEARCH_STORAGE=f"postgresql://me:{ENCODED}@host/db"
    )
    assert Home().storage_url.endswith(f"{ENCODED}@host/db")
    said = without_secrets(f"bad {SECRET}, bad {ENCODED}, key='Amazon/S3cret'")
    assert said == "bad ***, bad ***, key='***'"
