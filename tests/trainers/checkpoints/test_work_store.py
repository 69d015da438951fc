"""The work store, on a real S3 server that is killed and comes back: nothing is lost, mixed or waited for in vain."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import ROOT, s3, tiny
from trainers.checkpoints import commit
from trainers.checkpoints.object_store import Remote
from trainers.checkpoints.work_store import RemoteStore, Store, open_store
from trainers.errors import StoreError
from trainers.job import Job, Parts, Shared, Stage, Tune
from trainers.model.loading import WEIGHTS
from trainers.training.launch import launch
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage
from trainers.utils.progress import StepCallback


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store"
    request.getfixturevalue("running")
    return address(tmp_path)


def address(folder: Path) -> str:
    """A prefix of this test's own."""
    return f"s3://{s3.BUCKET}/{folder.name}"


def keys(server: s3.Server, folder: Path) -> set[str]:
    """What is in the bucket below that prefix."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET, Prefix=f"{folder.name}/")
    return {one["Key"].split("/", 1)[1] for page in pages for one in page.get("Contents", ())}


def committed_folder(folder: Path, **files: str | bytes) -> Path:
    with commit.commit_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != commit.MANIFEST}


def soon(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_what_one_machine_pushes_another_pulls(url: str, tmp_path: Path) -> None:
    here, there = RemoteStore(url, tmp_path / "here"), RemoteStore(url, tmp_path / "there")
    here.check()
    result = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, weights=os.urandom(2**20), empty="")
    with commit.commit_folder(tmp_path / "here" / "stages" / "b" / RESULT) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "file").write_text("deep")
    score = tmp_path / "here" / "scores" / "A.json"
    score.parent.mkdir()
    for text in ("1", "2"):  # the last counts
        score.write_text(text)
        here.push_file(score)
        assert here.drain()
    here.push(result, keep=0)
    here.push(tmp_path / "here" / "stages" / "b" / RESULT, keep=0)
    assert here.drain()
    pulled = tmp_path / "there" / "stages" / "a" / RESULT
    assert there.pull(pulled)
    assert contents(pulled) == contents(result)
    assert (pulled / commit.MANIFEST).read_bytes() == (result / commit.MANIFEST).read_bytes()
    assert there.pull(tmp_path / "there" / "stages" / "b" / RESULT)
    assert (tmp_path / "there" / "stages" / "b" / RESULT / "deep" / "file").read_text() == "deep"
    assert there.pull_file(tmp_path / "there" / "scores" / "A.json")
    assert (tmp_path / "there" / "scores" / "A.json").read_text() == "2"
    assert there.read(pulled, "weights") == (result / "weights").read_bytes()
    assert not there.pull(tmp_path / "there" / "stages" / "c" / RESULT)
    assert not there.pull_file(tmp_path / "there" / "scores" / "C.json")
    assert there.read(tmp_path / "there" / "stages" / "c" / RESULT, "weights") is None
    assert [path.name for path in (tmp_path / "there" / "scores").iterdir()] == ["A.json"]


@pytest.mark.parametrize("kind", ["no mark", "half a mark", "no file", "another file"])
def test_half_an_upload_does_not_count(tmp_path: Path, kind: str) -> None:
    store = RemoteStore(f"file://{tmp_path}/store", tmp_path / "here")
    stage = tmp_path / "here" / "stages" / "a"
    for step in (3, 6):
        store.push(committed_folder(commit.step_folder(stage, step), one=f"one {step}", two=f"two {step}"), keep=2)
    assert store.drain()
    shutil.rmtree(stage)
    last = tmp_path / "store" / "stages" / "a" / "step-00000006"
    (one,) = last.glob("*/one")
    {
        "no mark": (last / commit.MANIFEST).unlink,
        "half a mark": lambda: os.truncate(last / commit.MANIFEST, 40),
        "no file": one.unlink,
        "another file": lambda: one.write_text("one 7"),
    }[kind]()
    assert not store.pull(commit.step_folder(stage, 6))
    store.pull_latest(stage)
    assert [path.name for path in stage.iterdir()] == ["step-00000003"]
    assert contents(commit.step_folder(stage, 3)) == {"one": b"one 3", "two": b"two 3"}


def test_two_writers_of_one_result_never_mix(running: s3.Server, tmp_path: Path) -> None:
    """Both write while a third reads: one of the two wholes, always the same one, and nothing beside it."""
    written: dict[Path, set[frozenset[tuple[str, bytes]]]] = {}
    writing, turns = 2, 5

    def result(who: str, turn: int) -> Path:
        return tmp_path / who / "stages" / str(turn) / RESULT

    def write(who: str) -> None:
        nonlocal writing
        store = RemoteStore(address(tmp_path), tmp_path / who)
        for turn in range(turns):
            store.push(result(who, turn), keep=0)
            store.drain()
        writing -= 1

    for turn in range(turns):
        for who in ("one", "two"):
            committed_folder(result(who, turn), **{f"file{number}": f"{who} {number}" for number in range(4)})
        written[result("reader", turn)] = {frozenset(contents(result(who, turn)).items()) for who in ("one", "two")}
    writers = [threading.Thread(target=write, args=(who,)) for who in ("one", "two")]
    for one in writers:
        one.start()
    reader, seen = RemoteStore(address(tmp_path), tmp_path / "reader"), dict[Path, set[frozenset[tuple[str, bytes]]]]()
    while writing or len(seen) < turns:
        for pulled in written:
            if reader.pull(pulled):
                seen.setdefault(pulled, set()).add(frozenset(contents(pulled).items()))
            else:
                assert pulled not in seen
    for pulled, wholes in seen.items():
        assert len(wholes) == 1
        assert wholes <= written[pulled]
    assert len(keys(running, tmp_path)) == turns * (1 + 4)


def test_a_store_without_conditional_writes(
    running: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.without_conditions(running.url) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        remote = Remote(address(tmp_path))
        remote.write("mark", b"first", only_first=True)
        remote.write("mark", b"second", only_first=True)
        assert remote.read("mark") == b"first"
        remote.write("mark", b"third")
        assert remote.read("mark") == b"third"


@pytest.mark.parametrize("kind", ["no file", "another file"])
def test_a_damaged_result_is_replaced_and_a_half_one_swept(url: str, tmp_path: Path, kind: str) -> None:
    first, second = RemoteStore(url, tmp_path / "first"), RemoteStore(url, tmp_path / "second")
    for who, store in (("first", first), ("second", second)):
        store.push(committed_folder(tmp_path / who / "stages" / "a" / RESULT, weights=who), keep=0)
        assert store.drain()
    reader, pulled = RemoteStore(url, tmp_path / "reader"), tmp_path / "reader" / "stages" / "a" / RESULT
    assert reader.pull(pulled)
    assert contents(pulled) == {"weights": b"first"}
    files, base = reader._remote._fs, f"{reader._remote._base}/stages/a/{RESULT}"
    (stored,) = files.glob(f"{base}/*/weights")
    files.rm_file(stored) if kind == "no file" else files.pipe_file(stored, b"worst")
    files.pipe_file(f"{base}/0123/weights", b"of one who was killed")
    here = tmp_path / "second" / "stages" / "a" / RESULT
    assert not second.pull(here)
    second.push(here, keep=0)
    assert second.drain()
    assert reader.pull(pulled)
    assert contents(pulled) == {"weights": b"second"}
    assert len(files.find(base)) == 2
    files.pipe_file(f"{base}/0123/weights", b"of one who was killed")
    second.remove_stale(here.parent)
    assert len(files.find(base)) == 2


def test_the_store_keeps_what_a_stage_needs(running: s3.Server, tmp_path: Path) -> None:
    """Two checkpoints, whoever wrote them; after the result none, nor what other writers left half-way."""
    store, stage = RemoteStore(address(tmp_path), tmp_path / "here"), tmp_path / "here" / "stages" / "a"
    client, halves = running.client(), f"{tmp_path.name}/stages/a/step-00000001"

    def marks() -> set[str]:
        return {key for key in keys(running, tmp_path) if key.endswith(commit.MANIFEST)}

    client.put_object(Bucket=s3.BUCKET, Key=f"{halves}/0123/weights", Body=b"half")
    client.create_multipart_upload(Bucket=s3.BUCKET, Key=f"{halves}/0123/optimizer")
    for step in (2, 3, 4):
        store.push(committed_folder(commit.step_folder(stage, step), weights=str(step)), keep=2)
    assert store.drain()
    assert marks() == {f"stages/a/step-0000000{step}/commit.json" for step in (3, 4)}
    assert not any("step-00000001" in key or "step-00000002" in key for key in keys(running, tmp_path))
    assert not client.list_multipart_uploads(Bucket=s3.BUCKET).get("Uploads")
    for later in (8, 9):  # halves of another
        client.put_object(Bucket=s3.BUCKET, Key=f"{tmp_path.name}/stages/a/step-0000000{later}/0123/weights", Body=b"")
    store.push(committed_folder(commit.step_folder(stage, 5), weights="5"), keep=2)
    assert store.drain()
    assert marks() == {f"stages/a/step-0000000{step}/commit.json" for step in (4, 5)}
    store.push(committed_folder(stage / RESULT, weights="6"), keep=0)
    store.push(committed_folder(commit.step_folder(stage, 6), weights="6"), keep=2)  # of one who was cut off
    assert store.drain()
    assert {key.split("/")[2] for key in keys(running, tmp_path)} == {RESULT}


def test_a_checkpoint_that_was_superseded_is_not_waited_for(tmp_path: Path) -> None:
    store, stage = RemoteStore(f"file://{tmp_path}/store", tmp_path / "here"), tmp_path / "here" / "stages" / "a"
    half = committed_folder(commit.step_folder(stage, 1), weights="1")
    (half / "weights").unlink()
    store.push(half, keep=2)  # being pruned
    store.push(commit.step_folder(stage, 0), keep=2)  # pruned
    store.push(committed_folder(commit.step_folder(stage, 2), weights="2"), keep=2)
    assert store.drain()
    marks = (tmp_path / "store" / "stages" / "a").glob("*/commit.json")
    assert [path.parent.name for path in marks] == ["step-00000002"]
    shutil.rmtree(half)
    busy = committed_folder(commit.step_folder(stage, 3), weights="3")
    for step in (4, 5, 6):
        committed_folder(commit.step_folder(stage, step), weights="4")
    commit.prune(stage, keep=2, spare=busy)
    assert sorted(path.name[-1] for path in stage.iterdir()) == ["3", "5", "6"]


def test_without_a_store_all_stays_here(tmp_path: Path) -> None:
    store = open_store(None)
    assert type(store) is Store
    folder = committed_folder(tmp_path / "stages" / "a" / RESULT, weights="1")
    store.push(folder, keep=0)
    assert store.drain()
    assert store.result(folder.parent) == folder
    assert store.result(tmp_path / "stages" / "b") is None
    assert store.address(folder) == str(folder)


def test_callers_of_one_store_share_its_uploads_and_hear_what_they_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, put, heard = threading.Event(), Remote.put, (list[str](), list[str]())
    monkeypatch.setattr(Remote, "put", lambda *arguments: go_on.wait() and put(*arguments))
    shared = Shared(url=f"file://{tmp_path}/store", root=tmp_path / "here")
    first, second = (open_store(shared, listener.append) for listener in heard)
    folder = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, weights="1")
    first.push(folder, keep=0)
    assert not second.drain(within=0)
    go_on.set()
    assert second.drain()
    shutil.rmtree(folder)
    heard[1].clear()
    assert first.pull(folder)
    assert heard == ([f"fetching {shared.url}/stages/a/{RESULT}, weights"], [])


# -- what a person hears -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "mistyped"}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "mistyped"}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1"}, "Invalid endpoint: 127.0.0.1"),
    ],
)
def test_wrong_credentials(
    running: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    folder = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, weights="1")
    for attempt in (
        lambda store: store.check(),
        lambda store: store.pull(folder),
        lambda store: (store.push(folder, keep=0), store.drain()),
    ):
        with pytest.raises(StoreError, match=rf"^work store s3://studies/{tmp_path.name}: {said}") as caught:
            attempt(RemoteStore(address(tmp_path), tmp_path / "here"))
        assert s3.SECRET not in str(caught.value)
        assert "mistyped" not in str(caught.value)
    assert commit.committed(folder)


def test_a_bucket_that_is_not_there(running: s3.Server, tmp_path: Path) -> None:
    store = RemoteStore("s3://study/mine", tmp_path)
    folder = committed_folder(tmp_path / "stages" / "a" / RESULT, weights="1")
    for attempt in (store.check, lambda: store.pull(folder), lambda: (store.push(folder, keep=0), store.drain())):
        with pytest.raises(StoreError, match=r"work store s3://study/mine: there is no bucket 'study': make it"):
            attempt()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s4://studies", "ACSEARCH_WORK s4://studies: Protocol not known: s4; for instance s3://bucket/prefix"),
        ("s3://", "ACSEARCH_WORK s3:: names no bucket"),
        ("studies", "ACSEARCH_WORK studies: names no bucket"),
        ("s3://key:hidden@studies/mine", "no credentials in the address; give them as AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_no_address(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        RemoteStore(url, tmp_path)
    assert "hidden" not in str(caught.value)


# -- outages -----------------------------------------------------------------------------------------------------------


def test_the_server_is_killed_during_an_upload(running: s3.Server, tmp_path: Path) -> None:
    heard: list[str] = []
    store = RemoteStore(address(tmp_path), tmp_path / "here", heard.append)
    files = {f"file{number}": os.urandom(2**20) for number in range(40)}
    folder = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, **files)
    store.push(folder, keep=0)
    soon(lambda: len(keys(running, tmp_path)) > 1)
    running.kill()
    assert not store.drain(within=1)
    assert heard[0].startswith(f"waiting for {address(tmp_path)}, 1 to upload")
    running.start()
    assert commit.MANIFEST not in str(keys(running, tmp_path))
    assert store.drain()
    there = RemoteStore(address(tmp_path), tmp_path / "there")
    assert there.pull(tmp_path / "there" / "stages" / "a" / RESULT)
    assert contents(tmp_path / "there" / "stages" / "a" / RESULT) == files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    tiny.manifest(folder, 21)
    return folder


def make_job(world: Path, **settings: object) -> Job:
    """12 steps."""
    defaults: dict[str, object] = {"epochs": 2.0, "checkpoint_every": 1, "cache_features": True}
    train = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="full", lr=1e-2)}
    stage = {"data": "x", "template": "chat", "train": train, "batch": 4, "micro_batch": 2, "longest": 100}
    return Job(
        parts=Parts(
            representation="clip@32|pool@2",
            llm=str(world / "llm"),
            template="chat",
            encoders=(world / "encoders.yaml",),
        ),
        stage=Stage(**stage, **(defaults | settings)),  # type: ignore[arg-type]
        data=world / "turns-2.json",
    )


def at(job: Job, root: Path, url: str | None) -> tuple[Job, Path]:
    """The job on a machine with this work folder, and its stage's folder there."""
    shared = Shared(url=url, root=root) if url else None
    placed = job.model_copy(update={"store": shared, "features": root / "features"})
    return placed, root / "stages" / job.digest[:24]


def weights(result: Path) -> bytes:
    return (result / WEIGHTS).read_bytes()


def test_a_stage_goes_on_while_the_server_is_away(running: s3.Server, world: Path, tmp_path: Path) -> None:
    job, stage = at(make_job(world), tmp_path / "here", address(tmp_path))

    def watch(step: int, steps: int, loss: float) -> None:
        if step == 3:
            running.kill()

    result = run_stage(job, stage, watch)  # to its end: there is no server any more
    store = open_store(job.store)
    assert not store.drain(within=1)
    running.start()
    assert store.drain()
    (features,) = (tmp_path / "here" / "features").iterdir()
    there = keys(running, tmp_path)
    assert {key.split("/")[2] for key in there if key.startswith("stages/")} == {RESULT}
    assert f"features/{features.name}" in there
    elsewhere, other = at(make_job(world), tmp_path / "there", address(tmp_path))
    pulled = run_stage(elsewhere, other, never)
    assert contents(pulled) == contents(result)
    assert [line.step for line in MetricsLog(pulled / METRICS_LOG).read()] == list(range(1, 13))
    assert weights(pulled) == weights(run_stage(*at(make_job(world), tmp_path / "alone", None)))


def never(step: int, steps: int, loss: float) -> None:
    raise AssertionError("nothing is left to train")


def counting(steps: list[int]) -> StepCallback:
    return lambda step, of, loss: steps.append(step)


@pytest.mark.usefixtures("at_once")
def test_a_stage_is_killed_and_resumed_on_another_machine(running: s3.Server, world: Path, tmp_path: Path) -> None:
    """kill -9 with all that the machine had; the other one has nothing but the bucket."""
    made = make_job(world, epochs=20.0, checkpoint_every=3)
    job, stage = at(made, tmp_path / "here", address(tmp_path))
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(tmp_path / "job.json"), str(stage)]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    soon(lambda: any("step-" in key and key.endswith(commit.MANIFEST) for key in keys(running, tmp_path)))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before it could be killed"
    shutil.rmtree(tmp_path / "here")
    elsewhere, other = at(made, tmp_path / "there", address(tmp_path))
    steps: list[int] = []
    result = run_stage(elsewhere, other, counting(steps))
    assert 3 < steps[0] < 120
    assert steps == list(range(steps[0], 121))
    assert [line.step for line in MetricsLog(other / METRICS_LOG).read()] == list(range(1, 121))
    assert weights(result) == weights(run_stage(*at(made, tmp_path / "alone", None)))
    assert open_store(elsewhere.store).drain()
    assert {key.split("/")[2] for key in keys(running, tmp_path) if key.startswith("stages/")} == {RESULT}


def test_the_later_checkpoint_counts(world: Path, tmp_path: Path) -> None:
    """Here or there; and what is only here goes there."""
    made, url = make_job(world, checkpoint_every=3), f"file://{tmp_path}/store"

    class Interrupted(Exception):
        pass

    def stopping(last: int, steps: list[int]) -> StepCallback:
        def watch(step: int, of: int, loss: float) -> None:
            steps.append(step)
            if step == last:
                raise Interrupted

        return watch

    one, two = at(made, tmp_path / "one", url), at(made, tmp_path / "two", url)
    for place, last, began in ((one, 4, 1), (two, 8, 4), (one, 8, 7), (two, 12, 7)):
        steps: list[int] = []
        with pytest.raises(Interrupted):
            run_stage(*place, stopping(last, steps))
        assert steps[0] == began
        assert open_store(place[0].store).drain()
    shutil.rmtree(tmp_path / "store")
    assert weights(run_stage(*two)) == weights(run_stage(*at(made, tmp_path / "alone", None)))
    assert open_store(two[0].store).drain()
    marks = (tmp_path / "store").glob("stages/*/*/commit.json")
    assert [path.parent.name for path in marks] == [RESULT]


@pytest.mark.usefixtures("at_once")
def test_processes_of_their_own_share_their_stage(running: s3.Server, world: Path, tmp_path: Path) -> None:
    job, stage = at(make_job(world, epochs=1.0), tmp_path / "here", address(tmp_path))
    result = launch(job, stage, 2)
    files = json.loads((result / commit.MANIFEST).read_text())
    there = {key for key in keys(running, tmp_path) if key.startswith("stages/")}
    assert {key.split("/")[-1] for key in there} == {commit.MANIFEST, *files}
    assert {key.split("/")[2] for key in there} == {RESULT}
    elsewhere, other = at(make_job(world, epochs=1.0), tmp_path / "there", address(tmp_path))
    assert contents(launch(elsewhere, other, 2, never)) == contents(result)
    assert not (other / "train.log").exists()
