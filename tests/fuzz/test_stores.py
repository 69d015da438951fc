"""Marks of a work store to which others write: pulled whole into their folder, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from support import fuzzing
from support.fuzzing import cases, damaged_bytes, damaged_tree
from trainers.checkpoints import commit
from trainers.checkpoints.commit import MANIFEST, RESULT
from trainers.checkpoints.uploads import content_name
from trainers.checkpoints.work_store import RemoteStore

FILES = {"weights": b"w", "deep/log": b"l"}
MARK = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
PARTS = [
    "..",
    ".",
    "",
    "a",
    "weights",
    "deep",
    "log",
    "~",
    "\\..",
    "\0",
    "\n",
    "*",
    "C:",
    MANIFEST,
    "\ud800",
    "é",
    "x" * 256,
]
DIGESTS = [*MARK.values(), "", "x", None, 1, [], {}, "A" * 64, "0" * 63, "0" * 65]


@st.composite
def marks(draw: fuzzing.Draw) -> bytes:
    """Half of them whole files under hostile names; the others damaged in their keys, values or bytes."""
    kind = draw(st.sampled_from(["names", "names", "digests", "tree", "bytes", "deep"]))
    if kind == "names":
        names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join) | st.text(max_size=20)
        found: Any = {draw(names): MARK["weights"] for _ in range(draw(st.integers(1, 3)))} | MARK
    elif kind == "digests":
        found = MARK | {"weights": draw(st.sampled_from(DIGESTS) | st.text(max_size=70))}
    elif kind == "tree":
        found = draw(damaged_tree(MARK))
    elif kind == "bytes":
        return draw(damaged_bytes(json.dumps(MARK).encode()))
    else:
        opening, depth = draw(st.sampled_from([b"[", b'{"a":'])), draw(st.sampled_from([100, 1000, 100_000]))
        return opening * depth
    return json.dumps(found, default=str).encode(errors="surrogatepass")


@cases(500, marks())
def test_marks(tmp_path: Path, damaged: bytes) -> None:
    place, name = tmp_path / "a" / "b" / "c" / "d" / "e" / "f", f"stages/s/{RESULT}"
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    base = place / "store" / content_name(name, damaged)
    base.mkdir(parents=True)
    (place / "store" / name / MANIFEST).write_bytes(damaged)
    try:
        names = {str(one): FILES.get(str(one), b"w") for one in json.loads(damaged)}
    except (ValueError, RecursionError, TypeError):
        names = dict(FILES)
    for file, content in names.items():  # there, wherever the name leads
        path = Path(os.path.normpath(f"{base}/{file}".encode("utf-8", "replace").decode().replace("\0", "")))
        with contextlib.suppress(OSError):  # too long, or a folder is there
            if path.is_relative_to(tmp_path) and path.name != MANIFEST:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    before = fuzzing.contents(tmp_path)

    store, folder = RemoteStore(f"file://{place}/store", place / "work"), place / "work" / name
    if store.pull(folder):
        assert commit.committed(folder)
        assert sorted(json.loads(damaged)) == sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.name != MANIFEST
        )
        shutil.rmtree(folder)
    else:
        assert not folder.exists()
    assert store.read(folder, "weights") in (b"w", None)
    assert fuzzing.contents(tmp_path) == before
