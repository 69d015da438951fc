"""A study that is carried elsewhere in a bundle goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
import zstandard

from acsearch.bundles.transfer import export_study, import_study
from acsearch.errors import BundleError, StudyError
from acsearch.study.snapshot import Snapshot
from support import postgres
from support.bundled_studies import Interrupted, carry, proposals, run, trials
from support.homes import TempHome


@pytest.mark.parametrize("left", [False, True], ids=["between finetunes", "within one"])
def test_a_study_goes_on_elsewhere(here: TempHome, there: TempHome, undisturbed: Snapshot, left: bool) -> None:
    run(there.start(), 2, left=left)
    carry(there, here)
    assert trials(here) == trials(there)  # numbers, states, times, values, parameters, attributes
    snapshot = run(here.study())
    assert proposals(snapshot) == proposals(undisturbed)[:4]
    np.testing.assert_array_equal(snapshot.steps[-1].recommendation.p_best, undisturbed.steps[4].recommendation.p_best)
    again = carry(here, there)  # and back
    assert (len(again.changes.finish), len(again.changes.add)) == ((1, 1) if left else (0, 2))
    assert proposals(there.study().snapshot()) == proposals(undisturbed)[:4]
    assert len(run(there.study()).finished) == 4  # nothing is left to do


def test_twice_changes_nothing(here: TempHome, there: TempHome, tmp_path: Path) -> None:
    run(there.start(), 2, left=True)
    first, second = tmp_path / "a.tar.zst", tmp_path / "b.tar.zst"
    export_study(there, "s", first)
    export_study(there, "s", second)
    assert first.read_bytes() == second.read_bytes()
    assert import_study(here, first).changes
    before = here.content()
    assert not import_study(here, first).changes
    assert here.content() == before
    assert not import_study(there, first).changes


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import optuna
from acsearch.bundles.transfer import import_study
from support.homes import TempHome

add, added = optuna.Study.add_trial, []

def until_killed(self, trial):
    if len(added) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    added.append(trial)
    add(self, trial)

optuna.Study.add_trial = until_killed
import_study(TempHome(Path(sys.argv[1]), sys.argv[2] or None), Path(sys.argv[3]))
"""


def kill_import(home: TempHome, file: Path, url: str = "") -> None:
    """An import that is killed with -9 after its first trial."""
    support = str(Path(__file__).parents[2])
    arguments = [sys.executable, "-c", KILLED, str(home.folder), url, str(file), support]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_an_import_that_was_killed_wrote_nothing(here: TempHome, there: TempHome, tmp_path: Path) -> None:
    run(there.start(budget=6), 1)
    first, second = tmp_path / "first.tar.zst", tmp_path / "second.tar.zst"
    export_study(there, "s", first)
    run(there.study(), 3)
    export_study(there, "s", second)
    kill_import(here, second)
    assert not optuna.get_all_study_names(here.open_storage(create=False))
    import_study(here, first)
    before, _ = here.content()
    kill_import(here, second)
    after, _ = here.content()  # the database undoes what was cut off when it is next opened
    assert after == before
    import_study(here, second)
    assert trials(here) == trials(there)


@pytest.mark.parametrize("what", ["set_user_attr", "add_trial"])
@pytest.mark.parametrize("present", [False, True])
def test_an_import_that_fails_leaves_the_storage_as_it_was(
    here: TempHome, there: TempHome, tmp_path: Path, what: str, present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(there.start(budget=6), 1)
    if present:
        carry(there, here)
    else:
        here.open_storage(create=True)
    there.study().raise_budget(7)
    run(there.study(), 3)
    before, write = here.content(), getattr(optuna.Study, what)

    def fails(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        raise Interrupted

    export_study(there, "s", tmp_path / "b.tar.zst")
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, what, fails)
        with pytest.raises(Interrupted):
            import_study(here, tmp_path / "b.tar.zst")
    assert here.content() == before
    import_study(here, tmp_path / "b.tar.zst")
    assert trials(here) == trials(there)


def test_what_cannot_be_read_again_is_not_committed(
    here: TempHome, there: TempHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: a study here that was damaged before, for instance."""
    run(there.start(budget=6), 2)
    carry(there, here)
    here.study().optuna_study.set_user_attr("attempts-trial-9", [])
    before = here.content()
    run(there.study(), 1)
    with pytest.raises((BundleError, StudyError), match="trial 9 is missing"):
        carry(there, here)
    assert here.content() == before


def test_a_study_that_acsearch_did_not_start_is_left_alone(here: TempHome, there: TempHome) -> None:
    run(there.start(), 1)
    foreign = optuna.create_study(study_name="s", storage=here.open_storage(create=True), direction="minimize")
    foreign.set_user_attr("budget", "mine")
    before = here.content()
    with pytest.raises(BundleError, match=r"study 's' is here already, and acsearch did not start it"):
        carry(there, here)
    assert here.content() == before


def test_a_bundle_is_a_tar_that_others_read(there: TempHome, tmp_path: Path) -> None:
    there.start()
    export_study(there, "s", tmp_path / "b.tar.zst")
    with (tmp_path / "b.tar.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(text)) as tar:
        assert tar.getnames() == ["manifest.json", "study.json"]
        manifest, study = (json.load(tar.extractfile(name)) for name in tar.getnames())  # type: ignore[arg-type]
        member = tar.extractfile("study.json")
        assert member is not None
        assert manifest["files"]["study.json"]["sha256"] == hashlib.sha256(member.read()).hexdigest()
    assert (manifest["format"], manifest["study"], study["attributes"]["budget"]) == (1, "s", 4)


def test_a_file_is_not_overwritten(there: TempHome, tmp_path: Path) -> None:
    there.start()
    file = tmp_path / "mine.tar.zst"
    file.write_text("mine")
    with pytest.raises(BundleError, match="exists already"):
        export_study(there, "s", file)
    with pytest.raises(BundleError, match="No such file|not there"):
        export_study(there, "s", tmp_path / "no" / "b.tar.zst")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.tar.zst"]
    assert file.read_text() == "mine"


@pytest.mark.services
def test_to_postgresql_and_back(there: TempHome, tmp_path: Path, undisturbed: Snapshot) -> None:
    with postgres.server(tmp_path) as url:
        engine = sqlalchemy.create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("create database studies"))
        engine.dispose()
        here = TempHome(tmp_path / "here", f"{url}/studies")
        run(there.start(), 2, left=True)
        carry(there, here)
        assert trials(here) == trials(there)
        assert not carry(there, here).changes
        assert proposals(run(here.study())) == proposals(undisturbed)[:4]
        carry(here, there)
        export_study(there, "s", tmp_path / "again.tar.zst")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("create database empty"))
        killed = TempHome(tmp_path / "killed", f"{url}/empty")
        kill_import(killed, tmp_path / "again.tar.zst", f"{url}/empty")
        assert not optuna.get_all_study_names(killed.open_storage(create=False))
        killed.claims("s").steal()
        import_study(killed, tmp_path / "again.tar.zst")
        assert trials(killed) == trials(there)
    assert proposals(there.study().snapshot()) == proposals(undisturbed)[:4]
