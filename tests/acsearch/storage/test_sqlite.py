"""SQLite storages: one database has the same locks under all its names, and what else a URL may name is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acsearch.errors import StudyError
from acsearch.storage.home import Home
from acsearch.storage.sqlite import sqlite_file
from support.homes import TempHome


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage with a study, in a folder that is also reached through a link."""
    (tmp_path / "real").mkdir()
    TempHome(tmp_path / "real").start()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "studies.db")
    monkeypatch.chdir(tmp_path / "real")
    return tmp_path / "real" / "studies.db"


URLS = [
    "sqlite:///{folder}/link.db",
    "sqlite:///{folder}/linked/studies.db",
    "sqlite:///studies.db",
    "sqlite:///../real/./studies.db",
    "sqlite:///%73tudies.db",
    "sqlite+pysqlite:///studies.db",
    "sqlite:///file:studies.db?uri=true",
    "sqlite:///file:{folder}/link.db?uri=true",
    "sqlite:///file://{folder}/real/studies.db?uri=true",
    "sqlite:///file:{folder}/real/%73tudies.db?uri=true",
]


@pytest.mark.parametrize("url", URLS)
def test_a_database_has_the_same_locks_under_all_its_names(database: Path, url: str) -> None:
    other = Home(url.format(folder=database.parent.parent))
    with Home(f"sqlite:///{database}").claims("s").claim("trial-0") as ours:
        assert ours
        assert other.claims("s").held("trial-0")
    assert [study.study_name for study in other.open_storage(create=False).get_all_studies()] == ["s"]
    assert sorted(path.name for path in database.parent.parent.iterdir()) == ["link.db", "linked", "real"]


def test_the_locks_are_where_the_version_before_looks_for_them(database: Path) -> None:
    with Home(f"sqlite:///{database}").claims("s").claim("trial-0"):
        assert (database.parent / "studies.db.locks" / "s" / "trial-0").is_file()


@pytest.mark.parametrize("create", [True, False])
def test_a_hard_link_is_refused(database: Path, tmp_path: Path, create: bool) -> None:
    (tmp_path / "second.db").hardlink_to(database)
    for url in (f"sqlite:///{database}", f"sqlite:///{tmp_path / 'second.db'}"):
        for use in (lambda url=url: Home(url).open_storage(create=create), lambda url=url: Home(url).claims("s")):
            with pytest.raises(StudyError, match="the file has other names too"):
                use()


def test_a_mount_of_the_file_alone_is_refused(database: Path, tmp_path: Path) -> None:
    """Its name there has other locks, and another journal."""
    (tmp_path / "mounted.db").touch()
    script = (
        f"mount --bind {database} {tmp_path}/mounted.db && exec {sys.executable} -m acsearch "
        f"study list --storage sqlite:///{tmp_path}/mounted.db"
    )
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of one's own here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if "mount" in done.stderr.split("error:")[0]:
        pytest.skip(f"no mounts of one's own here: {done.stderr}")
    assert done.returncode == 1
    assert "the file has other names too" in done.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///studies.db?timeout=5", "nothing may follow a '?'"),
        ("sqlite:///file:studies.db?uri=true&nolock=1", "nothing may follow a '?'"),
        ("sqlite:///file:studies.db?mode=memory&uri=true", "nothing may follow a '?'"),
        ("sqlite:////tmp/what?/studies.db", "nothing may follow a '?'"),
        ("sqlite:///file::memory:?uri=true", "names no file"),
        ("sqlite://somewhere/studies.db", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:///pipe", "not a file"),
        ("sqlite:///.", "not a file"),
        ("sqlite:///loop", "symbolic links"),
        ("sqlite:///studies.db/studies.db", "Not a directory"),
    ],
)
def test_what_names_no_database_is_refused(database: Path, url: str, says: str) -> None:
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    before = sorted(database.parent.iterdir())
    with pytest.raises(StudyError, match=r"^--storage sqlite") as error:
        Home(url).open_storage(create=True)
    assert says in error.value.line
    assert sorted(database.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["what?", "100 %", "%41", "a#b", "ü"])
def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ACSEARCH_HOME", str(tmp_path / name))
    home = Home()
    storage = home.open_storage(create=True)
    assert sqlite_file(home.storage_url, "--storage", "studies") == tmp_path / name / "studies.db"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert storage.get_all_studies() == []


@pytest.mark.parametrize("link", ["studies.db.locks", "studies.db.locks/s"])
def test_locks_are_not_written_where_links_lead(database: Path, tmp_path: Path, link: str) -> None:
    folder, elsewhere = database.parent / link, tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    with pytest.raises(StudyError, match=f"^{folder}: a link, "), Home("sqlite:///studies.db").claims("s").claim("ask"):
        pass
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("earlier", [True, False])
def test_a_study_may_be_called_create(tmp_path: Path, earlier: bool) -> None:
    """As the lock was under which the version before created the database."""
    home = TempHome(tmp_path)
    home.open_storage(create=True)
    if earlier:
        (tmp_path / "studies.db.locks" / "create").write_text("somewhere, process 1")
    with home.claims("create").claim("ask") as ours:
        assert ours
