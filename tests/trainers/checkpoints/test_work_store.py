"""The work store: what one machine pushes another pulls, whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from support import s3
from support.work_stores import address, committed_folder, contents, stored_keys
from trainers.checkpoints import commit
from trainers.checkpoints.object_store import Remote
from trainers.checkpoints.work_store import RemoteStore, Store, open_store
from trainers.job import Shared
from trainers.training.train import RESULT


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


@pytest.mark.services
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
    assert len(stored_keys(running, tmp_path)) == turns * (1 + 4)


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


@pytest.mark.services
def test_the_store_keeps_what_a_stage_needs(running: s3.Server, tmp_path: Path) -> None:
    """Two checkpoints, whoever wrote them; after the result none, nor what other writers left half-way."""
    store, stage = RemoteStore(address(tmp_path), tmp_path / "here"), tmp_path / "here" / "stages" / "a"
    client, halves = running.client(), f"{tmp_path.name}/stages/a/step-00000001"

    def marks() -> set[str]:
        return {key for key in stored_keys(running, tmp_path) if key.endswith(commit.MANIFEST)}

    client.put_object(Bucket=s3.BUCKET, Key=f"{halves}/0123/weights", Body=b"half")
    client.create_multipart_upload(Bucket=s3.BUCKET, Key=f"{halves}/0123/optimizer")
    for step in (2, 3, 4):
        store.push(committed_folder(commit.step_folder(stage, step), weights=str(step)), keep=2)
    assert store.drain()
    assert marks() == {f"stages/a/step-0000000{step}/commit.json" for step in (3, 4)}
    assert not any("step-00000001" in key or "step-00000002" in key for key in stored_keys(running, tmp_path))
    assert not client.list_multipart_uploads(Bucket=s3.BUCKET).get("Uploads")
    for later in (8, 9):  # halves of another
        client.put_object(Bucket=s3.BUCKET, Key=f"{tmp_path.name}/stages/a/step-0000000{later}/0123/weights", Body=b"")
    store.push(committed_folder(commit.step_folder(stage, 5), weights="5"), keep=2)
    assert store.drain()
    assert marks() == {f"stages/a/step-0000000{step}/commit.json" for step in (4, 5)}
    store.push(committed_folder(stage / RESULT, weights="6"), keep=0)
    store.push(committed_folder(commit.step_folder(stage, 6), weights="6"), keep=2)  # of one who was cut off
    assert store.drain()
    assert {key.split("/")[2] for key in stored_keys(running, tmp_path)} == {RESULT}


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
