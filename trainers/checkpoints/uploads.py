"""What this process uploads to a work store: one queue for all who use the store at that address.

Uploads run in background threads, so training never waits for them. `trainers.checkpoints.work_store` says what is
stored under which name.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainers.checkpoints import commit
from trainers.checkpoints.commit import LARGEST_MANIFEST, MANIFEST, RESULT, parse_manifest
from trainers.checkpoints.object_store import Remote
from trainers.utils.progress import Reporter

_SMALL = 8 * 2**20  # bytes; a smaller file is sent again rather than compared
_DIGITS = 16  # of the manifest's SHA-256


@dataclass(frozen=True)
class _Upload:
    path: Path
    keep: int | None  # checkpoints; None for a file


class Uploads:
    """The queue of uploads from one folder to one store, and what this process knows about that store.

    Attributes:
        remote: the files at the store's address.
        busy: the folder that is being uploaded now and must not be pruned, or None.
        damaged: manifests found in the store whose files did not fit them.
        checked: whether the store is known to accept writes.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.remote = Remote(url)
        self.busy: Path | None = None
        self.damaged: set[bytes] = set()
        self.checked = False
        self._root = root
        self._changed = threading.Condition()
        self._lanes: dict[str, deque[_Upload]] = {}  # by folder: checkpoints do not wait behind all features
        self._trouble = ""  # why the last try failed
        self._failed: Exception | None = None

    def name(self, path: Path) -> str:
        """The name in the store of a path below the root folder."""
        return path.absolute().relative_to(self._root).as_posix()

    # -- the queue -----------------------------------------------------------------------------------------------------

    def add(self, path: Path, keep: int | None = None) -> None:
        """Upload a file in the background; or, where `keep` is given, a committed folder of a stage.

        Args:
            path: the file or the folder.
            keep: how many checkpoints of that stage stay in the store.
        """
        lane = self.name(path).split("/")[0]
        with self._changed:
            if lane not in self._lanes:
                self._lanes[lane] = deque()
                threading.Thread(target=self._work, args=(self._lanes[lane],), name="store", daemon=True).start()
            self._lanes[lane].append(_Upload(path, keep))
            self._changed.notify_all()

    def drain(self, report: Reporter, within: float | None = None) -> bool:
        """Wait until everything is uploaded, whoever asked for it.

        Args:
            report: is called each second with what is still waited for.
            within: the longest time to wait, in seconds; without it there is no limit.

        Returns:
            Whether everything is uploaded.

        Raises:
            StoreError: an upload failed and trying again is no use.
        """

        def left() -> int:
            return sum(map(len, self._lanes.values()))

        waited = 0.0
        while True:
            with self._changed:
                if not left() or (within is not None and waited >= within):
                    break
                self._changed.wait(1.0)
                waited, text = waited + 1.0, f"waiting for {self.remote.url}, {left()} to upload"
            report(f"{text}: {self._trouble}" if self._trouble else text)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        return not left()

    def _work(self, lane: deque[_Upload]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: lane)
                upload = lane[0]
                if upload.keep is not None:
                    self.busy = upload.path
            try:
                self.remote.retry(self._note_trouble, self._upload, upload)
            except Exception as error:  # for whoever drains; everything is still here, and uploaded when it is resumed
                self._failed = self._failed or error
            with self._changed:
                lane.popleft()
                if upload.keep is not None:
                    self.busy = None
                self._trouble = ""
                self._changed.notify_all()

    def _note_trouble(self, reason: str) -> None:
        self._trouble = reason

    # -- one upload ----------------------------------------------------------------------------------------------------

    def _upload(self, upload: _Upload) -> None:
        try:
            if upload.keep is None:
                self._put(upload.path, self.name(upload.path), upload.path.stat().st_size >= _SMALL)
            else:
                self._put_folder(upload.path, upload.keep)
        except FileNotFoundError:
            if not (upload.keep and commit.missing(upload.path)):
                raise
            # else a newer checkpoint replaced this one, and it is pruned here

    def _put(self, path: Path, name: str, unless_there: bool) -> None:
        if not unless_there or self.remote.size(name) != path.stat().st_size:
            self.remote.put(path, name)

    def _put_folder(self, folder: Path, keep: int) -> None:
        manifest, name, is_result = (folder / MANIFEST).read_bytes(), self.name(folder), folder.name == RESULT
        stage = str(PurePosixPath(name).parent)
        first = self._result(stage)
        if first is not None and not is_result:
            return  # another machine finished the stage first
        if first is None and self.manifest(name) != manifest:
            self.remote.abort_uploads(content_name(name, manifest))
            for file in parse_manifest(manifest):
                self._put(folder / file, content_name(name, manifest, file), True)
            self.remote.write(f"{name}/{MANIFEST}", manifest, only_first=is_result)
        if is_result:
            self.remove_stale(stage)
        for step in reversed(self.steps(stage)):
            if keep == 0:
                self._remove(f"{stage}/{step}")
            elif self.manifest(f"{stage}/{step}") is not None:  # else another machine is uploading it
                keep -= 1

    def _result(self, stage: str) -> bytes | None:
        """The manifest of a stage's result. One that did not fit its files is removed, so that another can be put."""
        manifest = self.manifest(f"{stage}/{RESULT}")
        if manifest in self.damaged:
            self.remote.remove(f"{stage}/{RESULT}/{MANIFEST}")
            return None
        return manifest

    # -- what is in the store ------------------------------------------------------------------------------------------

    def manifest(self, folder: str) -> bytes | None:
        """The manifest of a folder in the store, as it is there; None where there is none."""
        return self.remote.read(f"{folder}/{MANIFEST}", LARGEST_MANIFEST)

    def steps(self, stage: str) -> list[str]:
        """The names of a stage's checkpoint folders in the store, oldest first."""
        return sorted(name for name in self.remote.names(stage) if name.startswith(commit.PREFIX))

    def remove_stale(self, stage: str) -> None:
        """Remove what other writers left beside the files of a stage's committed result."""
        result = f"{stage}/{RESULT}"
        manifest = self.manifest(result)
        if manifest is not None:
            for name in self.remote.names(result):
                if name != MANIFEST and f"{result}/{name}" != content_name(result, manifest):
                    self._remove(f"{result}/{name}")

    def _remove(self, name: str) -> None:
        """A folder, its manifest first, and all that other writers left under its name."""
        self.remote.abort_uploads(name)
        self.remote.remove(f"{name}/{MANIFEST}")
        self.remote.remove(name, folder=True)


@functools.cache
def shared_uploads(url: str, root: Path) -> Uploads:
    """The one queue of this process for a store and a folder, so that whoever drains it waits for everybody's uploads.

    Args:
        url: address of the store, without a slash at its end.
        root: the folder here whose contents the store shares, an absolute path.
    """
    return Uploads(url, root)


def content_name(folder: str, manifest: bytes, file: str = "") -> str:
    """Where the files of a committed folder are in the store, or one of them."""
    return f"{folder}/{hashlib.sha256(manifest).hexdigest()[:_DIGITS]}/{file}".rstrip("/")
