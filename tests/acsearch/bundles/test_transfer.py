"""Bundles: a study goes on elsewhere as if nothing had happened, copies are merged or refused, and damage is found."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
import zstandard
from optuna.distributions import IntDistribution
from optuna.trial import Trial, TrialState

from acsearch.bundles import transfer as bundle
from acsearch.bundles.transfer import export_study, import_study
from acsearch.config.table_file import load_table
from acsearch.errors import BundleError, StudyError
from acsearch.runners.base import Observation
from acsearch.runners.recorded import RecordedRunner
from acsearch.study.events import Event
from acsearch.study.snapshot import Snapshot
from acsearch.study.study import Study
from support import postgres
from support.homes import Place
from trainers.errors import AcsearchError, ConfigError
from trainers.utils.progress import Reporter

LOOKED_UP = RecordedRunner(load_table("law_v1"))


class Interrupted(Exception):
    """Stands for whatever ended a controller."""


def run(study: Study, finetunes: int = 99, others: dict[int, float] | None = None, left: bool = False) -> Snapshot:
    """Run so many finetunes, and begin one more that is left unfinished. others: mmbench_en of some candidates."""

    class Some(RecordedRunner):
        done = 0

        def finetune(self, candidate: int, trial: int, run: str | None, say: Reporter) -> Observation:
            if Some.done == finetunes:
                raise Interrupted
            Some.done += 1
            found = super().finetune(candidate, trial, run, say)
            return replace(
                found, scores=found.scores | {"mmbench_en": (others or {}).get(candidate, found.scores["mmbench_en"])}
            )

    def watch(event: Event) -> None:
        if event.kind == "finetuned" and not left and Some.done == finetunes:
            raise Interrupted

    with suppress(Interrupted):
        study.run(Some(LOOKED_UP.table), watch)
    return study.snapshot()


def proposals(snapshot: Snapshot) -> list[str]:
    return [record.representation for record in snapshot.finetunes]


def trials(place: Place) -> list[dict[str, Any]]:
    """All that Optuna holds of the trials but their keys in its tables."""
    return [{**vars(trial), "_trial_id": None} for trial in place.study()._study.get_trials()]


def carry(source: Place, target: Place, **options: Any) -> bundle.Imported:
    number = len(list(source.folder.parent.glob("*.zst")))
    file = source.folder.parent / f"{number}.tar.zst"
    export_study(source, "s", file)
    return import_study(target, file, **options)


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Place:
    return Place(tmp_path / "there")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return run(Place(tmp_path_factory.mktemp("undisturbed")).start(budget=6))


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True], ids=["between finetunes", "within one"])
def test_a_study_goes_on_elsewhere(here: Place, there: Place, undisturbed: Snapshot, left: bool) -> None:
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


def test_twice_changes_nothing(here: Place, there: Place, tmp_path: Path) -> None:
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
    here: Place, there: Place, monkeypatch: pytest.MonkeyPatch
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


def test_a_bundle_is_a_tar_that_others_read(there: Place, tmp_path: Path) -> None:
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


def test_a_file_is_not_overwritten(there: Place, tmp_path: Path) -> None:
    there.start()
    file = tmp_path / "mine.tar.zst"
    file.write_text("mine")
    with pytest.raises(BundleError, match="exists already"):
        export_study(there, "s", file)
    with pytest.raises(BundleError, match="No such file|not there"):
        export_study(there, "s", tmp_path / "no" / "b.tar.zst")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.tar.zst"]
    assert file.read_text() == "mine"


def test_to_postgresql_and_back(there: Place, tmp_path: Path, undisturbed: Snapshot) -> None:
    with postgres.server(tmp_path) as url:
        engine = sqlalchemy.create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("create database studies"))
        engine.dispose()
        here = Place(tmp_path / "here", f"{url}/studies")
        run(there.start(), 2, left=True)
        carry(there, here)
        assert trials(here) == trials(there)
        assert not carry(there, here).changes
        assert proposals(run(here.study())) == proposals(undisturbed)[:4]
        carry(here, there)
    assert proposals(there.study().snapshot()) == proposals(undisturbed)[:4]


# -- two copies --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study in two places, one finetune done and one left unfinished."""
    folder = tmp_path_factory.mktemp("forked")
    run(Place(folder / "there").start(budget=4), 1, left=True)
    carry(Place(folder / "there"), Place(folder / "here"))
    return folder


@pytest.fixture
def copies(forked: Path, here: Place, there: Place) -> tuple[Place, Place]:
    for place in (here, there):
        shutil.copytree(forked / place.folder.name, place.folder)
    return here, there


def end(place: Place, number: int, candidate: int, state: TrialState = TrialState.COMPLETE, more: float = 0.0) -> None:
    """A trial of this candidate, ended as a policy and a cluster of another kind might have."""
    study, table = place.study(), LOOKED_UP.table
    inner = study._study
    trial_id = inner._storage.create_new_trial(inner._study_id) if number == len(inner.trials) else None
    trial_id = inner.trials[number]._trial_id if trial_id is None else trial_id
    if not inner.trials[number].params:
        inner._storage.set_trial_param(trial_id, "candidate", candidate, IntDistribution(0, 12))
        inner._storage.set_trial_user_attr(trial_id, "representation", table.representations[candidate])
    if state == TrialState.COMPLETE:
        found = LOOKED_UP.finetune(candidate, number, None, print)
        scores = {name: points + more for name, points in found.scores.items()}
        study.tell(Trial(inner, trial_id), replace(found, scores=scores))
    elif state == TrialState.FAIL:
        inner.tell(number, state=state)


def running(place: Place) -> int:
    """The candidate of the unfinished trial 1."""
    return int(place.study()._study.trials[1].params["candidate"])


def states(place: Place) -> list[tuple[int | None, str]]:
    return [(trial.params.get("candidate"), trial.state.name) for trial in place.study()._study.trials]


def refused(source: Place, target: Place, why: str, error: type[AcsearchError] = BundleError, **options: Any) -> None:
    before = target.content()
    with pytest.raises(error, match=why):
        carry(source, target, **options)
    assert target.content() == before


def test_running_here_and_finished_there(copies: tuple[Place, Place]) -> None:
    here, there = copies
    end(there, 1, running(there))
    carry(there, here)
    one, other = here.study().snapshot().finetunes[1], there.study().snapshot().finetunes[1]
    assert replace(one, finished=None) == replace(other, finished=None, attempts=())  # attempts stay where they were
    assert not carry(here, there).changes


def test_finished_here_and_running_there(copies: tuple[Place, Place]) -> None:
    here, there = copies
    end(here, 1, running(here))
    before = here.content()
    assert not carry(there, here).changes
    assert here.content() == before


def test_finished_in_both_alike(copies: tuple[Place, Place]) -> None:
    here, there = copies
    end(here, 1, running(here))
    end(there, 1, running(there))
    assert not carry(there, here).changes
    assert not carry(here, there).changes


def test_finished_in_both_otherwise(copies: tuple[Place, Place]) -> None:
    here, there = copies
    candidate = running(here)
    end(here, 1, candidate)
    end(there, 1, candidate, more=0.25)
    points = LOOKED_UP.table.scores[candidate][0]
    name = LOOKED_UP.table.representations[candidate]
    what = f"{name} was finetuned as trial 1 here and as trial 1 in the bundle"
    refused(there, here, f"{what}: mmbench_en is {points} here, {points + 0.25} there; nothing was imported")


def test_failed_in_one_and_complete_in_the_other(copies: tuple[Place, Place]) -> None:
    here, there = copies
    end(here, 1, running(here), TrialState.FAIL)
    end(there, 1, running(there))
    refused(there, here, "fail here, complete there; nothing was imported")
    refused(here, there, "complete here, fail there")


def test_failed_in_both(copies: tuple[Place, Place]) -> None:
    for place in copies:
        end(place, 1, running(place), TrialState.FAIL)
    assert not carry(copies[1], copies[0]).changes


def test_other_candidates_under_one_number(copies: tuple[Place, Place]) -> None:
    here, there = copies
    one, other, third = sorted({*range(13)} - {row for row, _ in states(here)})[:3]  # type: ignore[type-var]
    for place in copies:
        end(place, 1, running(place))
    end(here, 2, one)
    end(there, 2, other)
    known = [record.representation for record in here.study().snapshot().finished]
    carry(there, here)
    assert states(here)[2:] == [(one, "COMPLETE"), (other, "COMPLETE")]
    after = here.study().snapshot()
    assert [record.representation for record in after.finished][:3] == known  # what was recorded stays true
    assert not carry(there, here).changes  # it is known by its candidate, not by its number
    end(there, 3, third)
    refused(
        there, here, "have 5 finetunes together, and its budget is 4: nothing was imported; allow them with --budget 5"
    )
    refused(there, here, "choose 4 to 13", ConfigError, budget=14)
    carry(there, here, budget=5)
    assert states(here)[4] == (third, "COMPLETE")
    assert here.study().budget == 5
    carry(here, there)
    assert sorted(states(there)) == sorted(states(here))
    assert there.study().budget == 5


def test_asked_for_and_not_proposed(here: Place, there: Place, undisturbed: Snapshot) -> None:
    """What a controller leaves that dies between the two."""
    run(there.start(), 1)
    there.study()._study.ask()
    carry(there, here)
    assert trials(here) == trials(there)
    other = next(row for row in range(13) if row not in dict(states(here)))
    end(there, 1, other)
    carry(there, here)
    assert states(here)[1] == (other, "COMPLETE")
    here.study()._study.ask()
    assert not carry(there, here).changes
    refused_number = states(here)
    assert refused_number[2] == (None, "RUNNING")
    carry(here, there)
    assert states(there) == refused_number
    assert len(run(here.study()).finished) == 4


def test_the_larger_budget_counts(copies: tuple[Place, Place]) -> None:
    here, there = copies
    there.study().raise_budget(6)
    carry(there, here)
    assert here.study().budget == 6
    assert not carry(here, there).changes


def test_scores_are_united_or_refused(copies: tuple[Place, Place]) -> None:
    here, there = copies
    scored = {"alignment": [0.5] * 8, "correspondence": 20.0, "seconds": 1.0, "details": {}}
    here.study()._study.set_user_attr("score-0", scored)
    there.study()._study.set_user_attr("score-0", scored | {"seconds": 2.0})
    there.study()._study.set_user_attr("score-1", scored)
    assert carry(there, here).changes.scores == 1
    assert here.study()._study.user_attrs["score-1"] == scored
    there.study()._study.set_user_attr("score-2", scored | {"correspondence": None})
    here.study()._study.set_user_attr("score-2", scored)
    refused(there, here, r"was scored in both copies, A and C are 0.5 and 20.0 here and 0.5 and None in the bundle")


def test_another_study_of_the_same_name(here: Place, there: Place) -> None:
    here.start()
    there.start()
    refused(there, here, "another one of the same name: started is 20.* here and 20.* in the bundle")


def test_what_somebody_works_on_is_let_be(copies: tuple[Place, Place], tmp_path: Path) -> None:
    here, there = copies
    with there.claims("s").claim("trial-1"):
        assert export_study(there, "s", tmp_path / "b.tar.zst").in_progress == (1,)
    end(there, 1, running(there))
    with here.claims("s").claim("trial-1"):
        refused(there, here, "somebody works on trial-1 here right now")
    assert len(carry(there, here).changes.finish) == 1
