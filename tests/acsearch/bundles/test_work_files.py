"""A study that trains, carried with its work folder: logs and results always, checkpoints on request."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from acsearch.bundles.transfer import export_study, import_study
from acsearch.errors import BundleError
from acsearch.reporting.tracking_server import open_record
from acsearch.runners.artifacts import TrainingArtifacts
from acsearch.runners.base import Observation
from acsearch.runners.registry import make_artifacts, make_runner
from acsearch.runners.training import TrainingRunner
from acsearch.study.stored import StoredStudy
from acsearch.study.trials import Trials
from support import tiny
from support.homes import Quiet, TempHome, tell
from support.made_up_bundles import content_of, made_up
from trainers.checkpoints.commit import commit_folder, committed, step_folder
from trainers.checkpoints.work_store import RemoteStore
from trainers.errors import TrainingError
from trainers.training.metrics_log import MetricsLog
from trainers.utils.locks import Locks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def pipeline(place: TempHome) -> TrainingRunner:
    made = make_runner(place.study().source, place.work)
    assert isinstance(made, TrainingRunner)
    return made


def artifacts(place: TempHome) -> TrainingArtifacts:
    made = make_artifacts(place.study().source, place.work)
    assert isinstance(made, TrainingArtifacts)
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One candidate scored for real. Its finetune, and half of another's, are stood for by a few bytes."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.llm(folder / "study" / "llm")
    tiny.encoders(folder / "study")
    (folder / "study" / "study.yaml").write_text(tiny.STUDY)
    place = TempHome(folder / "there")
    study = place.start(str(folder / "study"), budget=2)
    runner, kept = pipeline(place), artifacts(place)
    scores = runner.score(0, Quiet())
    for row in range(3):
        study.optuna_study.set_user_attr(f"score-{row}", vars(scores) | {"alignment": [-1.0 - row] * 2})
    for row in (0, 1):
        trial = Trials(study, print).propose()
        assert trial is not None
        stage = stages(kept, trial.candidate)[1]
        for step in (1, 2):
            MetricsLog(stage / "outbox.jsonl").write(step, {"loss": 1.0 / step})
            with commit_folder(step_folder(stage, step)) as fresh:
                (fresh / "weights.safetensors").write_bytes(bytes([step]) * 3_000_000)
        if row == 0:
            finish(study, trial.trial, stage)
    return folder


def finish(study: StoredStudy, trial: int, stage: Path) -> None:
    for benchmark in ("micro_attribute", "micro_existence"):
        for kind in ("results", "samples"):
            file = stage / "eval" / kind / f"{benchmark}.json{'l' * (kind == 'samples')}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}\n")
    with commit_folder(stage / "result") as fresh:
        (fresh / "weights.safetensors").write_bytes(b"w" * 2_000_000)
        (fresh / "model.json").write_text("{}")
        (fresh / "metrics.json").write_text('{"dropped": ["sample-3"]}')
    points = {"micro_attribute": 50.0, "micro_existence": 60.0}
    tell(study, trial, Observation(points, 1.0, {}, str(stage / "result")))


def stages(kept: TrainingArtifacts, candidate: int) -> list[Path]:
    """Folders of stage 1 and stage 2."""
    return [path for path in kept.files(candidate, finetuned=True) if path.parent.name == "stages"]


@pytest.fixture
def there(trained: Path, tmp_path: Path) -> TempHome:
    shutil.copytree(trained / "there", tmp_path / "there")
    return TempHome(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path) -> TempHome:
    return TempHome(tmp_path / "here")


def files(place: TempHome) -> dict[str, bytes]:
    found = (path for path in place.work.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(place.work).as_posix(): path.read_bytes() for path in found}


def carry(there: TempHome, here: TempHome, name: str = "b", checkpoints: bool = False) -> int:
    file = here.folder.parent / f"{name}.tar.zst"
    export_study(there, "s", file, checkpoints=checkpoints)
    return import_study(here, file).files


def test_what_belongs_to_a_candidate_is_what_scoring_made(there: TempHome) -> None:
    """The names that an export looks for are those that measuring wrote."""
    align, _, *scores = artifacts(there).files(0, finetuned=True)
    assert committed(align / "result")
    assert sorted(path.name for path in scores) == sorted(path.name for path in (there.work / "scores").iterdir())
    assert len(scores) == 2


def test_logs_and_results_always_checkpoints_on_request(there: TempHome, here: TempHome) -> None:
    whole = files(there)
    light = {
        name
        for name in whole
        if name.startswith("scores/") or "/eval/" in name or (name.count("/") == 2 and name.endswith("/outbox.jsonl"))
    }
    assert len(light) == 2 + 4 + 3
    assert carry(there, here) == len(light)
    assert files(here) == {name: whole[name] for name in light}
    last = {name for name in whole if "/result/" in name}
    unfinished = next(one for one in there.study().snapshot().finetunes if one.state == "interrupted")
    assert unfinished.candidate is not None
    stage = stages(artifacts(there), unfinished.candidate)[1]
    last |= {name for name in whole if name.startswith(f"stages/{stage.name}/step-00000002/")}
    assert carry(there, here, "with", checkpoints=True) == len(last)
    assert files(here) == {name: whole[name] for name in light | last}
    assert all(committed(path.parent) for path in here.work.rglob("commit.json"))
    assert carry(there, here, "again", checkpoints=True) == 0


def test_what_only_the_store_has_goes_along(
    there: TempHome, here: TempHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported on a machine where nothing was scored or trained."""
    url = f"file://{tmp_path}/store"
    uploads, expected = RemoteStore(url, there.work), files(there)
    for mark in sorted(there.work.glob("stages/*/*/commit.json")):
        uploads.push(mark.parent, keep=1)
    for path in (*there.work.glob("scores/*"), *there.work.glob("stages/*/eval/*/*")):
        uploads.push_file(path)
    assert uploads.drain()
    shutil.rmtree(there.work)
    monkeypatch.setattr(TempHome, "store", url)
    carry(there, here, checkpoints=True)
    carried = files(here)
    assert carried.items() <= expected.items()
    interrupted = next(one.candidate for one in there.study().snapshot().finetunes if one.state == "interrupted")
    align, unfinished = stages(artifacts(there), 0)[0], stages(artifacts(there), interrupted or 0)[1]
    assert {name.partition("/")[0] for name in carried} == {"scores", "stages"}
    assert f"stages/{align.name}/outbox.jsonl" in carried
    assert committed(here.work / "stages" / unfinished.name / "step-00000002")
    assert len([name for name in carried if "/eval/" in name]) == 4
    assert len([name for name in carried if name.endswith("/result/commit.json")]) == 2


def test_nothing_is_trained_again_where_checkpoints_are(
    there: TempHome, here: TempHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(there, here, checkpoints=True)
    shutil.copytree(there.work / "data", here.work / "data")  # which a study with data of its own has there
    before = json.loads((there.work / "scores" / artifacts(there).files(0, finetuned=False)[1].name).read_text())
    monkeypatch.setattr("trainers.training.train._Run", lambda *_: pytest.fail("trained"))
    assert pipeline(here).score(0, Quiet()).alignment == (before["value"],) * 2


def test_a_checkpoint_is_where_the_work_folder_is(there: TempHome, here: TempHome) -> None:
    """And the record does without those that were left behind, until they come."""
    study = there.study()
    trial = study.optuna_study.trials[1]
    finish(study, 1, stages(artifacts(there), trial.params["candidate"])[1])
    carry(there, here)
    moved = [Path(str(one.checkpoint)) for one in here.study().snapshot().finished]
    assert [path.is_relative_to(here.work.absolute()) for path in moved] == [True, True]
    assert not any(path.exists() for path in moved)
    client = MlflowClient(tracking_uri=here.tracking_uri)
    open_record(here, "s").record(here.study().snapshot, artifacts(here))
    assert not client.search_registered_models()
    carry(there, here, "with", checkpoints=True)
    assert all(committed(path) for path in moved)
    open_record(here, "s").record(here.study().snapshot, artifacts(here))
    best = here.study().snapshot().best
    assert best is not None
    assert client.get_model_version_by_alias("acsearch-s", "champion").description == best.representation


def test_the_study_file_may_lie_elsewhere(there: TempHome, here: TempHome, trained: Path, tmp_path: Path) -> None:
    export_study(there, "s", tmp_path / "b.tar.zst")
    names = [path.name for path in artifacts(there).files(1, finetuned=True)]
    shutil.move(trained / "study", tmp_path / "elsewhere")
    try:
        with pytest.raises(BundleError, match="give the study's folder here with --study"):
            import_study(here, tmp_path / "b.tar.zst")
        assert not here.folder.exists()
        with pytest.raises(BundleError, match="the table here is not the one"):
            import_study(here, tmp_path / "b.tar.zst", study="law_v1")
        import_study(here, tmp_path / "b.tar.zst", study=str(tmp_path / "elsewhere"))
        shutil.copytree(there.work / "data", here.work / "data")
        assert [path.name for path in artifacts(here).files(1, finetuned=True)] == names
        assert not import_study(here, tmp_path / "b.tar.zst").changes  # where it lies here is known
    finally:
        shutil.move(tmp_path / "elsewhere", trained / "study")


def test_a_broken_checkpoint_is_not_exported(there: TempHome, tmp_path: Path) -> None:
    weights = next(there.work.glob("stages/*/result/weights.safetensors"))
    with weights.open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    export_study(there, "s", tmp_path / "without.tar.zst")
    with pytest.raises(TrainingError, match=r"weights.safetensors has changed or is broken"):
        export_study(there, "s", tmp_path / "with.tar.zst", checkpoints=True)
    assert not list(tmp_path.glob("*with.tar.zst*"))


def test_a_checkpoint_that_its_mark_does_not_fit_is_not_imported(
    there: TempHome, here: TempHome, tmp_path: Path
) -> None:
    export_study(there, "s", tmp_path / "b.tar.zst")
    study = json.dumps(content_of(tmp_path / "b.tar.zst")).encode()
    folder = "work/stages/0123456789abcdef01234567/result"

    def mark(**files: bytes) -> bytes:
        return json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in files.items()}).encode()

    for files in (
        {"weights": b"w"},
        {"weights": b"w", "commit.json": mark(weights=b"v")},
        {"weights": b"w", "commit.json": mark(weights=b"w", model=b"m")},
        {"weights": b"w", "more": b"m", "commit.json": mark(weights=b"w")},
        {"weights": b"w", "commit.json": b"["},
    ):
        file = made_up(tmp_path / "m", {"study.json": study} | {f"{folder}/{name}": one for name, one in files.items()})
        with pytest.raises(BundleError, match=f"{folder} is not a committed checkpoint"):
            import_study(here, file)
        assert not here.folder.exists()
    good = {f"{folder}/weights": b"w", f"{folder}/commit.json": mark(weights=b"w")}
    import_study(here, made_up(tmp_path / "m", {"study.json": study} | good))
    assert committed(here.work / Path(folder).relative_to("work"))


def test_a_log_that_goes_on_is_taken_and_no_other(there: TempHome, here: TempHome) -> None:
    carry(there, here)
    log = next(path for path in there.work.glob("stages/*/outbox.jsonl") if not (path.parent / "result").exists())
    ours = here.work / log.relative_to(there.work)
    MetricsLog(log).write(3, {"loss": 0.25})
    with Locks(ours.parent).claim("lock"), pytest.raises(BundleError, match="somebody trains it right now"):
        carry(there, here, "locked")
    assert carry(there, here, "longer") == 1
    assert ours.read_bytes() == log.read_bytes()
    MetricsLog(ours).write(4, {"loss": 0.125})
    assert carry(there, here, "shorter") == 0
    other = log.read_bytes().replace(b"0.25", b"0.75") + b"\n" * 500
    log.write_bytes(other)
    assert carry(there, here, "other") == 0
    assert len(MetricsLog(ours).read()) == 4


def test_a_broken_result_here_is_replaced(there: TempHome, here: TempHome) -> None:
    carry(there, here, checkpoints=True)
    weights = next(here.work.glob("stages/*/result/weights.safetensors"))
    right = weights.read_bytes()
    weights.write_bytes(b"broken")
    assert carry(there, here, "again", checkpoints=True) > 0
    assert weights.read_bytes() == right


def test_rows_that_a_stage_left_out_are_known_from_its_result(there: TempHome) -> None:
    kept = artifacts(there)
    with_result = [row for row in range(3) if kept.dropped(row, 0)]
    assert len(with_result) == 1
    assert kept.dropped(with_result[0], 0) == ["sample-3"]
    assert kept.dropped(with_result[0], None) == []  # nothing in its stage 1
