"""A work store to which others write: what they put there stays in its folder, and neither hangs nor crashes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

from support import fuzzing
from support.work_stores import committed_folder
from trainers.checkpoints import commit
from trainers.checkpoints.commit import MANIFEST, RESULT
from trainers.checkpoints.uploads import content_name
from trainers.checkpoints.work_store import RemoteStore
from trainers.errors import StoreError, TrainingError

CONTENT = b"theirs"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAMES = [
    "../../../../escaped.txt",
    "..",
    "deep/../../../../../escaped.txt",
    "deep/..",
    "./weights",
    "/tmp/escaped.txt",
    "//escaped.txt",
    "deep//escaped.txt",
    "deep/",
    "",
    ".hidden",
    "~/escaped.txt",
    "..\\escaped.txt",
    "C:\\escaped.txt",
    "a\0b",
    "a\nb",
    "a\x1b[2J",
    "weights*",
    MANIFEST,
    f"{MANIFEST}/x",
    "x" * 300,
    "/".join("abcdefghijkl"),
]
MARKS = {
    "a list": b"[]",
    "no files": b"{}",
    "no digest": json.dumps({"weights": "abc"}).encode(),
    "a digest in capitals": json.dumps({"weights": DIGEST.upper()}).encode(),
    "a number": json.dumps({"weights": 1}).encode(),
    "a list of files": json.dumps([["weights", DIGEST]]).encode(),
    "not UTF-8": b'{"weights\xff": "' + DIGEST.encode() + b'"}',
    "deep": b"[" * 100_000,
    "deep within": b'{"weights": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "many files": json.dumps({f"file{number}": DIGEST for number in range(100_000)}).encode(),
    "huge": json.dumps({"weights": DIGEST}).encode() + b" " * 20_000_000,
    "a file and a folder": json.dumps({"a": DIGEST, "a/b": DIGEST}).encode(),
    "nothing": b"",
}


def hostile(url: str, result: str, manifest: bytes, *names: str) -> None:
    """A store whose mark is this one, with the files that it names where our own code would look for them."""
    files, base = fsspec.url_to_fs(url)
    for name in names:
        place = os.path.normpath(f"{base}/{content_name(result, manifest, name)}") if "\0" not in name else base
        files.makedirs(os.path.dirname(place), exist_ok=True)
        if not files.isdir(place):
            files.pipe_file(place, CONTENT)
    files.makedirs(f"{base}/{result}", exist_ok=True)
    files.pipe_file(f"{base}/{result}/{MANIFEST}", manifest)


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/deep/deeper/store"


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_that_names_what_is_no_file_of_its_folder_does_not_count(url: str, tmp_path: Path, name: str) -> None:
    manifest = json.dumps({"weights": DIGEST, name: DIGEST}).encode()
    hostile(url, f"stages/a/{RESULT}", manifest, "weights", *([name] if len(name) < 200 else []))
    before = fuzzing.contents(tmp_path)
    store = RemoteStore(url, tmp_path / "work")
    stage = tmp_path / "work" / "stages" / "a"
    assert not store.pull(stage / RESULT)
    assert store.result(stage) is None
    assert store.read(stage / RESULT, "weights") is None
    assert {path: content for path, content in fuzzing.contents(tmp_path).items() if "lock" not in path} == before
    assert not Path("/tmp/escaped.txt").exists()


@pytest.mark.parametrize("kind", MARKS)
def test_a_mark_of_another_shape_does_not_count(url: str, tmp_path: Path, kind: str) -> None:
    heard: list[str] = []
    hostile(url, f"stages/a/{RESULT}", MARKS[kind], "weights")
    store = RemoteStore(url, tmp_path / "work", heard.append)
    folder = tmp_path / "work" / "stages" / "a" / RESULT
    assert not store.pull(folder)
    assert not (tmp_path / "work" / "stages" / "a").exists()
    assert any(f"stages/a/{RESULT}/{MANIFEST}" in line for line in heard)
    store.push(committed_folder(folder, weights="ours"), keep=0)  # another is put in its place
    assert store.drain()
    assert RemoteStore(url, tmp_path / "other").pull(tmp_path / "other" / "stages" / "a" / RESULT)


@pytest.mark.parametrize("kind", MARKS)
def test_a_folder_here_with_such_a_mark_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / MANIFEST).write_bytes(MARKS[kind])
    (tmp_path / "weights").write_bytes(CONTENT)
    with pytest.raises(TrainingError, match=rf"{tmp_path}: not a committed checkpoint: .*{MANIFEST}"):
        commit.verify(tmp_path)
    assert not commit.committed(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_here_is_not_whole_by_files_that_are_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "escaped.txt").write_bytes(CONTENT)
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({name: DIGEST}))
    with pytest.raises(TrainingError, match=f"no readable {MANIFEST}"):
        commit.verify(folder)


def put_in_place(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a file for its folder":
        path.parent.rmdir()
        path.parent.touch()
    else:
        path.symlink_to(path.name if kind == "a link to itself" else "/nowhere")


KINDS = ["a FIFO", "a folder", "a link to itself", "a link to nothing", "a file for its folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_a_store_neither_hangs_nor_crashes(tmp_path: Path, kind: str) -> None:
    store = RemoteStore(f"file://{tmp_path}/store", tmp_path / "work")
    manifest = json.dumps({"deep/weights": DIGEST}).encode()
    hostile(store.url, f"stages/mark/{RESULT}", manifest)
    (tmp_path / "store" / "stages" / "mark" / RESULT / MANIFEST).unlink()
    put_in_place(tmp_path / "store" / "stages" / "mark" / RESULT / MANIFEST, kind)
    hostile(store.url, f"stages/file/{RESULT}", manifest)
    put_in_place(tmp_path / "store" / content_name(f"stages/file/{RESULT}", manifest, "deep/weights"), kind)
    put_in_place(tmp_path / "store" / "scores" / "A.json", kind)
    for stage in ("mark", "file"):
        folder = tmp_path / "work" / "stages" / stage / RESULT
        assert not store.pull(folder)
        assert store.read(folder, "deep/weights") is None
        assert not folder.exists()
    assert not store.pull_file(tmp_path / "work" / "scores" / "A.json")
    assert len(store.files(tmp_path / "work" / "scores" / "A.json")) <= 1


def test_a_folder_in_the_place_of_a_mark_is_one_line(tmp_path: Path) -> None:
    folder = committed_folder(tmp_path / "work" / "stages" / "a" / RESULT, weights="1")
    (tmp_path / "store" / "stages" / "a" / RESULT / MANIFEST / "more").mkdir(parents=True)
    store = RemoteStore(f"file://{tmp_path}/store", tmp_path / "work")
    store.push(folder, keep=0)
    with pytest.raises(StoreError, match=rf"work store file://{tmp_path}/store: .*{MANIFEST}"):
        store.drain()


def test_names_that_a_bucket_lists_are_names_of_files(tmp_path: Path) -> None:
    """An object store may have keys like stages/a/.. and step-*, which would be taken for a path and for a pattern."""
    store = RemoteStore(f"memory://{tmp_path}/store", tmp_path / "work")
    files = fsspec.filesystem("memory")
    for name in (
        "gqa.json",
        "..",
        ".",
        ".x",
        "step-*",
        "step-00000001",
        "step-1/..",
        "a\\b",
        "a\nb",
        "a\0b",
        "x" * 300,
    ):
        files.store[f"{tmp_path}/store/stages/a/{name}"] = MemoryFile(files, name, b"1")
    named = {path.name for path in store.files(tmp_path / "work" / "stages" / "a")}
    assert named == {"gqa.json", "step-00000001", "step-1"}
    assert store._uploads.steps("stages/a") == ["step-00000001", "step-1"]
    store.pull_latest(tmp_path / "work" / "stages" / "a")
    assert not (tmp_path / "work").exists()


def test_a_file_of_a_result_that_was_changed_is_not_read(url: str, tmp_path: Path) -> None:
    store = RemoteStore(url, tmp_path / "work")
    folder = committed_folder(tmp_path / "work" / "stages" / "a" / RESULT, log="ours")
    store.push(folder, keep=0)
    assert store.drain()
    assert store.read(folder, "log") == b"ours"
    hostile(url, f"stages/a/{RESULT}", (folder / MANIFEST).read_bytes(), "log")
    assert store.read(folder, "log") is None
    assert store.read(folder, "../../../../escaped.txt") is None
