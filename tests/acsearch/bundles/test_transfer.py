"""A study that is carried elsewhere in a bundle goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
import zstandard

from acsearch.bundles import transfer as bundle
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


def test_an_import_that_was_killed_is_ended_by_the_next(
    here: TempHome, there: TempHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(there.start(), 3)
    add, added = bundle.optuna.Study.add_trial, []

    def until_killed(self: Any, trial: Any) -> None:
        if len(added) == 2:
            raise Interrupted
        added.append(trial)
        add(self, trial)

    with monkeypatch.context() as patched:
        patched.setattr(bundle.optuna.Study, "add_trial", until_killed)
        with pytest.raises(Interrupted):
            carry(there, here)
    with pytest.raises(StudyError, match="no study 's'"):  # nobody goes on with half of it
        here.study()
    carry(there, here)
    assert trials(here) == trials(there)


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
    assert proposals(there.study().snapshot()) == proposals(undisturbed)[:4]
