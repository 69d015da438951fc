"""Bundles damaged in what they say, and sealed again: imported whole or refused, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from acsearch.bundles.transfer import import_study, read_export
from acsearch.cli import console
from acsearch.config.study_file import Source, load_source
from acsearch.policies.registry import POLICIES
from acsearch.reporting.summary import headline, ranking
from acsearch.runners.base import CandidateScores, Measurement, Observation
from acsearch.study.trials import Trials
from acsearch.tables.table import LARGEST
from support import fuzzing
from support.bundled_studies import run
from support.fuzzing import assert_helpful, cases, damaged_bytes, damaged_tree
from support.homes import TempHome, tell
from support.made_up_bundles import packed
from trainers.errors import AcsearchError

MEASUREMENT = "work/scores/A-0123456789abcdef01234567.json"
STAGE = "work/stages/0123456789abcdef01234567"
# what only the importing side has, and what a look at the study must not follow
LOCAL = {
    "job-trial-1": {"cluster": "c", "job": "1", "log": "/etc/passwd", "submitted": "2026-11-24T09:00:00"},
    "attempts-trial-1": [{"who": "me", "began": "2026-11-24T09:00:00"}],
    "attempts-score-0": [{"who": "me", "began": "0001-01-01T00:00:00", "ended": None, "outcome": "x", "error": "e"}],
    "runs": {"study/s": "0" * 32},
}
TIMES = ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "1969-12-31T23:59:59", "2026-11-24T09:00:00+00:00"]
TIMES += ["2026-11-24T09:00:00Z", "2026-11-24", "2026-13-01T00:00:00", "20261124T090000", "2026-11-24T24:00:00", "now"]
NAMED = ["study 's'", "nothing was imported", "prior", "polic", "the table", "--study"]  # in what is refused
PATHS = ["/etc/passwd", "/dev/zero", "../../x", f"stages/{'a' * 24}/result", "stages/x/result", "~/x", "s3://b/x"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies as bundles, and homes which have them: one looked up in a table, one that trains."""
    folder = tmp_path_factory.mktemp("bundles")
    looked_up = TempHome(folder / "recorded")
    run(looked_up.start(budget=4), 2, left=True)
    trains = TempHome(folder / "trained")
    study = trains.start("micro", budget=4)
    random = np.random.default_rng(0)
    for row in range(len(study.table.representations)):
        a, c = random.normal(-1, 0.1), random.normal(8, 1)
        study.note_scores(
            row, CandidateScores((a,) * len(study.table.benchmarks), c, 1.0, {"A/value": a, "C/value": c})
        )
    for _ in range(2):
        trial = Trials(study, print).propose()
        assert trial is not None
        if trial.trial == 0:
            points = dict.fromkeys(study.table.benchmarks, 50.0)
            tell(study, 0, Observation(points, 9.0, dict.fromkeys(points, 2.0), f"{trains.work}/{STAGE[5:]}/result"))
    for home in (looked_up, trains):
        text = read_export(home.open_storage(create=False), "s").model_dump_json(exclude_unset=True)
        (folder / f"{home.folder.name}.json").write_text(text)
    return folder


def files(study: Any) -> dict[str, bytes]:
    """Files of a work folder beside a study."""
    weights, log = b"weights", b'{"step": 1, "time": 1.0, "metrics": {"loss": 1.0}}\n'
    mark = json.dumps({"weights.safetensors": hashlib.sha256(weights).hexdigest()}).encode()
    return {
        "study.json": json.dumps(study, default=str).encode(),
        MEASUREMENT: b'{"value": -1.0}',
        f"{STAGE}/eval/results/b.json": b"{}",
        f"{STAGE}/outbox.jsonl": log,
        f"{STAGE}/result/weights.safetensors": weights,
        f"{STAGE}/result/commit.json": mark,
    }


def damaged_bundle(draw: fuzzing.Draw, study: dict[str, Any], file: Path) -> Path:
    """Its study or its manifest, in keys, values, text or bytes; sums and seal are right, unless they are damaged."""
    others = ["local", "text", "manifest", "manifest", "names", "mark", "measurement"]
    kind = draw(st.sampled_from(["study"] * 8 + ["plausible"] * 6 + others))
    values = st.sampled_from([*TIMES, *PATHS])
    if kind == "study":
        study = draw(damaged_tree(study, values)) if draw(st.booleans()) else part_damaged(draw, study, values)
    if kind == "plausible":
        for _ in range(draw(st.integers(1, 4))):
            make_plausible(draw, study)
    if kind == "local":
        key = draw(st.sampled_from([*LOCAL]))
        place = draw(st.sampled_from([study, *study["trials"]]))
        place["attributes"][key] = draw(st.just(LOCAL[key]) | damaged_tree(LOCAL[key], values))
    content = files(study)
    if kind == "text":
        content["study.json"] = draw(damaged_bytes(content["study.json"]))
    if kind == "names":
        name = draw(st.sampled_from([*content]))
        new = draw(
            st.sampled_from(["../x", "/tmp/x", f"{name}/..", name.upper(), name + "\n", f"work/{name}", ""]) | st.text()
        )
        content = {(new if one == name else one): inside for one, inside in content.items()}
    if kind == "mark":
        content[f"{STAGE}/result/commit.json"] = json.dumps(draw(damaged_tree({"a": "0" * 64})), default=str).encode()
    if kind == "measurement":
        content[MEASUREMENT] = json.dumps(draw(damaged_tree({"value": -1.0, "x": 2.0})), default=str).encode()
    entries = {name: {"size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in content.items()}
    manifest: Any = {"format": 1, "acsearch": "0.1", "study": "s", "host": "h", "files": entries}
    if kind == "manifest":
        manifest = draw(damaged_tree(manifest, values))
    text = json.dumps(manifest, default=str).encode()
    return packed(file, {"manifest.json": text, **{name: one for name, one in content.items() if tar_can(name)}})


def part_damaged(draw: fuzzing.Draw, study: dict[str, Any], values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """One value of the parts that are read most closely; damage to a whole tree mostly hits its many numbers."""
    trial = draw(st.sampled_from(study["trials"]))
    part = draw(st.sampled_from([trial, trial["attributes"], study["attributes"]["acsearch"], study["attributes"]]))
    key = draw(st.sampled_from([*part]))
    part[key] = draw(values | fuzzing.strange() | damaged_tree(part[key], values))
    return study


def make_plausible(draw: fuzzing.Draw, study: dict[str, Any]) -> None:
    """Another value that a study could have, however unlikely it is. What follows from it is changed as well."""
    attributes, about = study["attributes"], study["attributes"]["acsearch"]
    trial = draw(st.sampled_from(study["trials"]))
    number, positive = st.floats(-LARGEST, LARGEST), st.floats(0, LARGEST)
    scored = [key for key in attributes if key.startswith("score-")] or ["budget"]
    kinds = ["title", "seed", "policy", "budget", "time", "trial", "extra", "points", "points", "score", "failed"]
    kind = draw(st.sampled_from(kinds))
    if kind == "title":
        about["title"] = draw(st.text())
    elif kind == "seed":
        about["seed"] = draw(st.integers(0, 2**64))
    elif kind == "policy":
        about["policy"] = draw(st.sampled_from([*POLICIES]))
    elif kind == "budget":
        attributes["budget"] = draw(st.integers(1, 15))
    elif kind == "time":
        trial["started"] = draw(st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31))).isoformat()
    elif kind == "trial" and trial["state"] == "COMPLETE":
        names = [*trial["attributes"]["points"]]
        trial["attributes"]["seconds"] = draw(positive)
        trial["attributes"]["errors"] = draw(st.dictionaries(st.sampled_from(names), positive | st.none()))
    elif kind == "extra":
        key = draw(st.text(min_size=1))
        draw(st.sampled_from([study, trial]))["attributes"].setdefault(key, draw(fuzzing.strange()))
    elif kind == "points" and trial["state"] == "COMPLETE":
        table = load_source(Source(**about["table"]["source"]))
        points = {name: draw(number) for name in table.benchmarks}
        scaled = table.scale([*points.values()])
        trial["attributes"] |= {"points": points, "scores": dict(zip(points, scaled.tolist(), strict=True))}
        trial["value"] = float(scaled.mean())
    elif kind == "score" and (key := draw(st.sampled_from(scored))) != "budget":
        attributes[key]["alignment"] = [draw(number)] * len(attributes[key]["alignment"])
        attributes[key]["correspondence"] = draw(number)
    elif kind == "failed":
        trial |= {"state": "FAIL", "value": None, "finished": "2026-11-24T09:00:00"}


def tar_can(name: str) -> bool:
    try:
        return len(name.encode()) < 99  # else a tar has two headers for it
    except UnicodeEncodeError:
        return False


def outside(folder: Path) -> dict[str, bytes | str]:
    return {name: content for name, content in fuzzing.contents(folder).items() if not name.startswith("here/")}


def look(home: TempHome) -> None:
    """What `study show` and `study status` do."""
    snapshot = home.study().snapshot()
    console.summary(snapshot)
    console.status(snapshot, home.jobs)
    headline(snapshot), ranking(snapshot)
    assert all(np.isfinite(step.recommendation.p_best).all() for step in snapshot.steps)


@cases(1000, st.data())
def test_bundle(
    world: Path,
    tmp_path: Path,
    damaged: st.DataObject,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = damaged.draw(st.sampled_from(["recorded", "trained"]))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    study = json.loads((world / f"{kind}.json").read_text())
    file = damaged_bundle(damaged.draw, study, tmp_path / "b")
    here = TempHome(tmp_path / "here")
    if damaged.draw(st.booleans()):
        shutil.copytree(world / kind, here.folder)
    before, around = here.content(), outside(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            import_study(here, file)
        except AcsearchError as error:
            assert_helpful(error.line, [str(file), *NAMED])
            assert here.content() == before
        else:
            look(here)
            measured = here.folder / MEASUREMENT
            assert not measured.exists() or math.isfinite(Measurement.from_json(json.loads(measured.read_text())).value)
            assert "root:" not in capsys.readouterr().out
    assert outside(tmp_path) == around


@pytest.mark.parametrize("kind", ["recorded", "trained"])
def test_what_is_damaged_was_good(world: Path, tmp_path: Path, kind: str) -> None:
    """So that each is refused for its damage."""
    study = json.loads((world / f"{kind}.json").read_text())
    content = files(study)
    entries = {name: {"size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in content.items()}
    manifest = {"format": 1, "acsearch": "0.1", "study": "s", "host": "h", "files": entries}
    file = packed(tmp_path / "b", {"manifest.json": json.dumps(manifest).encode(), **content})
    here = TempHome(tmp_path / "here")
    assert import_study(here, file).files == 5
    look(here)
