"""The work store: a bucket that every machine of a study sees, beside the folder where work is done.

$ACSEARCH_WORK names it as fsspec does, such as s3://bucket/prefix; without it everything stays in the work folder.
Names are paths below that folder:

    scores/A-12ab.json                        a single file
    stages/34cd/step-00000300/commit.json     the mark of a committed folder: its files with their SHA-256
    stages/34cd/step-00000300/56ef/weights    its files, below the first digits of the mark's own SHA-256

- The mark is put last, so half an upload does not count. Files lie under a name made of their contents, so two writers
  of one folder never mix. Of two results the first with a mark stays, unless it is damaged: no other one can be put
  then, so what is beside its files is of somebody who died or will give up, and is removed.
- Uploads run in the background, and training never waits for them. Whoever tells others of a result drains first.
- A store that is away is waited for, however long. One that refuses us, or is not there, is an error.

What a killed process leaves of a large file is taken away when that file is put again or its folder goes; a bucket that
outlives studies wants a lifecycle rule for incomplete multipart uploads all the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from trainers.checkpoints import commit
from trainers.checkpoints.commit import MANIFEST, RESULT
from trainers.checkpoints.object_store import Remote
from trainers.errors import TrainingError
from trainers.job import Shared
from trainers.utils.atomic import atomic_write
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter, silent

T = TypeVar("T")

_SMALL = 8 * 2**20  # bytes of a file that is sooner sent again than compared
_DIGITS = 16  # of the mark's SHA-256


class Store:
    """No store: what is here stays here. say: is told what is waited for."""

    say: Reporter = staticmethod(lambda text: None)
    busy: Path | None = None  # what is being uploaded, and must not be pruned

    def check(self) -> None:
        """Raises StoreError when the store cannot be written to."""

    def address(self, path: Path) -> str:
        """Where others find this."""
        return str(path)

    def push(self, folder: Path, keep: int) -> None:
        """Have a committed folder of a stage uploaded; the last `keep` checkpoints of the stage stay in the store."""

    def push_file(self, path: Path) -> None:
        """Have a file uploaded."""

    def drain(self, within: float | None = None) -> bool:
        """Wait until all is uploaded, for so many seconds at most; whether it is. Raises StoreError."""
        return True

    def pull(self, folder: Path) -> bool:
        """Bring a committed folder here, in place of what is here; whether it was there. Nobody else may write it."""
        return False

    def pull_file(self, path: Path) -> bool:
        """Bring a file here; whether it was there."""
        return False

    def pull_latest(self, stage: Path) -> None:
        """Bring the last whole checkpoint of a stage here, if it is later than what is here."""

    def read(self, folder: Path, file: str) -> bytes | None:
        """One file of a committed folder in the store; None where that is not there."""
        return None

    def files(self, folder: Path) -> list[Path]:
        """What the store has directly in a folder, as paths here."""
        return []

    def remove_stale(self, stage: Path) -> None:
        """Remove from the store what others left beside a stage's committed result."""

    def result(self, stage: Path) -> Path | None:
        """A stage's committed result, brought here if it has to be."""
        result = stage / RESULT
        with Locks(stage).exclusive("lock"):  # nobody here is writing it
            return result if commit.committed(result) or self.pull(result) else None


def open_store(shared: Shared | None, report: Reporter = silent) -> Store:
    """TEMP"""
    store = _open_store(shared)
    store.say = report
    return store


@functools.cache
def _open_store(shared: Shared | None) -> Store:
    """The one of this process, so that whoever drains it waits for everybody's uploads."""
    return Store() if shared is None else RemoteStore(shared.url, shared.root)


@dataclass(frozen=True)
class _Upload:
    path: Path
    keep: int | None  # checkpoints; None for a file


class RemoteStore(Store):
    """A store at an fsspec URL, of the folder `root`."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self._root = url.rstrip("/"), root.absolute()
        self._remote = Remote(self.url)
        self._changed = threading.Condition()
        self._lanes: dict[str, deque[_Upload]] = {}  # by folder: checkpoints do not wait behind all features
        self._trouble = ""  # why the last try failed
        self._failed: Exception | None = None
        self._damaged: set[bytes] = set()  # marks whose files were not what they say
        self._checked = False

    def check(self) -> None:
        if not self._checked:
            self._insist(self._remote.write, ".acsearch", b"")
            self._checked = True

    def address(self, path: Path) -> str:
        return f"{self.url}/{self._name(path)}"

    # -- uploads -------------------------------------------------------------------------------------------------------

    def push(self, folder: Path, keep: int) -> None:
        self._enqueue(_Upload(folder, keep))

    def push_file(self, path: Path) -> None:
        self._enqueue(_Upload(path, None))

    def drain(self, within: float | None = None) -> bool:
        def left() -> int:
            return sum(map(len, self._lanes.values()))

        waited = 0.0
        while True:
            with self._changed:
                if not left() or (within is not None and waited >= within):
                    break
                self._changed.wait(1.0)
                waited, text = waited + 1.0, f"waiting for {self.url}, {left()} to upload"
            self.say(f"{text}: {self._trouble}" if self._trouble else text)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        return not left()

    def _enqueue(self, upload: _Upload) -> None:
        lane = self._name(upload.path).split("/")[0]
        with self._changed:
            if lane not in self._lanes:
                self._lanes[lane] = deque()
                threading.Thread(target=self._work, args=(self._lanes[lane],), name="store", daemon=True).start()
            self._lanes[lane].append(upload)
            self._changed.notify_all()

    def _work(self, lane: deque[_Upload]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: lane)
                upload = lane[0]
                if upload.keep is not None:
                    self.busy = upload.path
            try:
                self._remote.insist(lambda reason: setattr(self, "_trouble", reason), self._upload, upload)
            except Exception as error:  # for whoever drains; everything is still here, and uploaded when it is resumed
                self._failed = self._failed or error
            with self._changed:
                lane.popleft()
                if upload.keep is not None:
                    self.busy = None
                self._trouble = ""
                self._changed.notify_all()

    def _upload(self, upload: _Upload) -> None:
        try:
            if upload.keep is None:
                self._put(upload.path, self._name(upload.path), upload.path.stat().st_size >= _SMALL)
            else:
                self._put_folder(upload.path, upload.keep)
        except FileNotFoundError:
            if not (upload.keep and commit.missing(upload.path)):
                raise
            # else a checkpoint that was superseded, and is pruned here

    def _put(self, path: Path, name: str, unless_there: bool) -> None:
        if not unless_there or self._remote.size(name) != path.stat().st_size:
            self._remote.put(path, name)

    def _put_folder(self, folder: Path, keep: int) -> None:
        mark, name, is_result = (folder / MANIFEST).read_bytes(), self._name(folder), folder.name == RESULT
        stage = str(PurePosixPath(name).parent)
        first = self._result(stage)
        if first is not None and not is_result:
            return  # somebody was quicker
        if first is None and self._remote.read(f"{name}/{MANIFEST}") != mark:
            self._remote.abort_uploads(_inside(name, mark))
            for file in json.loads(mark):
                self._put(folder / file, _inside(name, mark, file), True)
            self._remote.write(f"{name}/{MANIFEST}", mark, only_first=is_result)
        if is_result:
            self._sweep(stage)
        for step in reversed(self._steps(stage)):
            if keep == 0:
                self._remove(f"{stage}/{step}")
            elif self._remote.read(f"{stage}/{step}/{MANIFEST}") is not None:  # else another one is at it, and may end
                keep -= 1

    def _result(self, stage: str) -> bytes | None:
        """The mark of a stage's result. One that did not fit its files is removed, so that another can be put."""
        mark = self._remote.read(f"{stage}/{RESULT}/{MANIFEST}")
        if mark in self._damaged:
            self._remote.remove(f"{stage}/{RESULT}/{MANIFEST}")
            return None
        return mark

    def _sweep(self, stage: str) -> None:
        result = f"{stage}/{RESULT}"
        mark = self._remote.read(f"{result}/{MANIFEST}")
        if mark is not None:
            for name in self._remote.names(result):
                if name != MANIFEST and f"{result}/{name}" != _inside(result, mark):
                    self._remove(f"{result}/{name}")

    def _remove(self, name: str) -> None:
        """A folder, its mark first, and all that other writers left under its name."""
        self._remote.abort_uploads(name)
        self._remote.remove(f"{name}/{MANIFEST}")
        self._remote.remove(name, folder=True)

    # -- downloads -----------------------------------------------------------------------------------------------------

    def pull(self, folder: Path) -> bool:
        name = self._name(folder)
        mark = self._insist(self._remote.read, f"{name}/{MANIFEST}") or b""
        try:
            files: dict[str, str] = dict(json.loads(mark))
            with commit.commit_folder(folder, files) as fresh:
                for file in files:
                    self.say(f"fetching {self.url}/{name}, {file}")
                    (fresh / file).parent.mkdir(parents=True, exist_ok=True)
                    self._insist(self._remote.get, _inside(name, mark, file), fresh / file)
        except (ValueError, TypeError, TrainingError, FileNotFoundError):  # no mark, or files that do not fit it
            self._damaged.add(mark)
            return False
        return True

    def pull_file(self, path: Path) -> bool:
        try:
            with atomic_write(path) as fresh:
                self._insist(self._remote.get, self._name(path), fresh)
        except FileNotFoundError:
            return False
        return True

    def pull_latest(self, stage: Path) -> None:
        here = commit.latest(stage)
        for step in reversed(self._insist(self._steps, self._name(stage))):
            if here is not None and step <= here.name:
                break
            if self.pull(stage / step):
                return
        if here is not None:
            self.push(here, keep=commit.KEEP)  # who wrote it may not have come to it

    def read(self, folder: Path, file: str) -> bytes | None:
        name = self._name(folder)
        mark = self._insist(self._remote.read, f"{name}/{MANIFEST}")
        return None if mark is None else self._insist(self._remote.read, _inside(name, mark, file))

    def files(self, folder: Path) -> list[Path]:
        return [folder / name for name in self._insist(self._remote.names, self._name(folder))]

    def remove_stale(self, stage: Path) -> None:
        self._insist(self._sweep, self._name(stage))

    def _steps(self, stage: str) -> list[str]:
        return sorted(name for name in self._remote.names(stage) if name.startswith(commit.PREFIX))

    # -- names and tries -----------------------------------------------------------------------------------------------

    def _insist(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._remote.insist(lambda reason: self.say(f"waiting for {self.url}: {reason}"), function, *arguments)

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self._root).as_posix()


def _inside(folder: str, mark: bytes, file: str = "") -> str:
    """Where a committed folder's files are."""
    return f"{folder}/{hashlib.sha256(mark).hexdigest()[:_DIGITS]}/{file}".rstrip("/")
