"""Settings: options count before variables, these before the file, and that before defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from acsearch.config import settings
from acsearch.storage.home import Home
from support.doctor import SECRET, set_variables
from trainers.errors import ConfigError

pytestmark = pytest.mark.usefixtures("alone")


def test_options_count_before_variables_before_the_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Home().storage_url == "sqlite:///acsearch-runs/studies.db"
    (tmp_path / "acsearch.toml").write_text('home = "filed"\ntracking = "http://filed"\nlease_seconds = 7\n')
    assert (Home().folder, Home().tracking_uri, Home().lease_seconds) == (Path("filed"), "http://filed", 7.0)
    set_variables(monkeypatch, MLFLOW_TRACKING_URI="http://mlflow", ACSEARCH_HOME="variable", ACSEARCH_STORAGE="")
    assert Home().storage_url == "sqlite:///variable/studies.db"  # what is empty is not set
    assert Home().tracking_uri == "http://mlflow"
    set_variables(monkeypatch, ACSEARCH_TRACKING="http://variable")
    assert Home().tracking_uri == "http://variable"
    assert Home(tracking="http://option").tracking_uri == "http://option"
    set_variables(monkeypatch, **Home(tracking="http://option").environment)  # as jobs are told
    (tmp_path / "acsearch.toml").unlink()
    assert (Home().tracking_uri, Home().lease_seconds, Home().folder) == ("http://option", 7.0, tmp_path / "variable")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stroage = 'x'", "unknown key 'stroage'; did you mean 'storage'?"),
        ("[acsearch]\nhome = 'x'", "unknown key 'acsearch'; known: home, storage,"),
        ("lease_seconds = '60'", "lease_seconds: Input should be a valid number"),
        ("lease_seconds = 0", "lease_seconds: Input should be greater than 0"),
        (f"storage = ['postgresql://me:{SECRET}@host/db']", "storage: Input should be a valid string"),
        (f"work = 's3://key:{SECRET}@bucket'", "work: no credentials in the address"),
        ("home = x", "not TOML"),
    ],
)
def test_a_bad_file(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(text)
    set_variables(monkeypatch, ACSEARCH_SETTINGS="mine.toml")
    with pytest.raises(ConfigError) as caught:
        settings.settings()
    assert str(caught.value).startswith(f"{tmp_path}/mine.toml: ")
    assert says in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


def test_bad_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, ACSEARCH_LEASE_SECONDS="soon")
    with pytest.raises(ConfigError, match=r"^\$ACSEARCH_LEASE_SECONDS: "):
        Home().lease_seconds  # noqa: B018
    set_variables(monkeypatch, ACSEARCH_SETTINGS="nowhere.toml")
    with pytest.raises(ConfigError, match="no file nowhere.toml"):
        settings.settings()
