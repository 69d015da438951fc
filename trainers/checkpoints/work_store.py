"""The work store: a bucket that every machine of a study sees, beside the folder where work is done.

$ACSEARCH_WORK names it as fsspec does, such as s3://bucket/prefix; without it everything stays in the work folder.
Names are paths below that folder:

    scores/A-12ab.json                        a single file
    stages/34cd/step-00000300/commit.json     the manifest of a committed folder: its files with their SHA-256
    stages/34cd/step-00000300/56ef/weights    its files, below the first digits of the manifest's own SHA-256

- The manifest is put last, so half an upload does not count. Files lie under a name made of their contents, so two
  writers of one folder never mix. Of two results the first whose manifest is put stays, unless it is damaged. No other
  one can be put then, so files beside it belong to a writer that died or will give up, and are removed.
- Uploads run in the background (`trainers.checkpoints.uploads`), and training never waits for them. Whoever tells
  others of a result drains first.
- Whoever may write to the store may put anything there. A manifest is read into a strict model, which knows only names
  of files below its folder, before one of them is fetched; one of another shape counts as damaged.
- A store that does not answer is waited for, however long. One that refuses us or does not exist is an error.

What a killed process leaves of a large file is taken away when that file is put again or its folder goes; a bucket that
outlives studies wants a lifecycle rule for incomplete multipart uploads all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trainers.checkpoints import commit
from trainers.checkpoints.commit import MANIFEST, RESULT, parse_manifest
from trainers.checkpoints.uploads import content_name, shared_uploads
from trainers.errors import TrainingError, first_line
from trainers.job import Shared
from trainers.utils.atomic import atomic_write
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter, silent

T = TypeVar("T")


class Store:
    """No work store: everything stays in the work folder. `RemoteStore` says what the methods do where there is one."""

    @property
    def busy(self) -> Path | None:
        """The folder that is being uploaded now and must not be pruned."""
        return None

    def check(self) -> None:
        """See whether the store can be written to.

        Raises:
            StoreError: it cannot.
        """

    def address(self, path: Path) -> str:
        """The address under which other machines find a path of the work folder."""
        return str(path)

    def push(self, folder: Path, keep: int) -> None:
        """Upload a committed folder of a stage in the background.

        Args:
            folder: the checkpoint or the result.
            keep: how many checkpoints of the stage stay in the store.
        """

    def push_file(self, path: Path) -> None:
        """Upload a single file in the background."""

    def drain(self, within: float | None = None) -> bool:
        """Wait until everything that this process uploads to the store is there.

        Args:
            within: the longest time to wait, in seconds; without it there is no limit.

        Returns:
            Whether everything is uploaded.

        Raises:
            StoreError: an upload failed and trying again is no use.
        """
        return True

    def pull(self, folder: Path) -> bool:
        """Download a committed folder, in place of what is here. Nobody else may write the folder meanwhile.

        Returns:
            Whether the store has the folder, whole.
        """
        return False

    def pull_file(self, path: Path) -> bool:
        """Download a single file.

        Returns:
            Whether the store has it.
        """
        return False

    def pull_latest(self, stage: Path) -> None:
        """Download the last whole checkpoint of a stage, if it is later than the one that is here."""

    def read(self, folder: Path, file: str) -> bytes | None:
        """The contents of one file of a committed folder in the store; None where it is not there, whole."""
        return None

    def files(self, folder: Path) -> list[Path]:
        """The files that the store has directly in a folder, as paths of the work folder."""
        return []

    def remove_stale(self, stage: Path) -> None:
        """Remove from the store what other writers left beside a stage's committed result."""

    def result(self, stage: Path) -> Path | None:
        """A stage's committed result, downloaded if it has to be; None where there is none."""
        result = stage / RESULT
        with Locks(stage).exclusive("lock"):  # nobody here is writing it
            return result if commit.committed(result) or self.pull(result) else None


def open_store(shared: Shared | None, report: Reporter = silent) -> Store:
    """The work store that a job names, for one caller.

    Args:
        shared: the store's address and the work folder; None for no store.
        report: is called with what this caller waits for.

    Raises:
        StoreError: the address cannot be used.
    """
    return Store() if shared is None else RemoteStore(shared.url, shared.root, report)


class RemoteStore(Store):
    """A work store at an fsspec URL. All of a process that share URL and folder have one queue of uploads."""

    def __init__(self, url: str, root: Path, report: Reporter = silent) -> None:
        """Open the store; nothing is read or written yet.

        Args:
            url: fsspec address, such as s3://bucket/prefix.
            root: the folder here whose contents the store shares.
            report: is called with what this caller waits for.

        Raises:
            StoreError: the address cannot be used.
        """
        self.url, self._report = url.rstrip("/"), report
        self._uploads = shared_uploads(self.url, root.absolute())
        self._remote = self._uploads.remote

    @property
    def busy(self) -> Path | None:
        return self._uploads.busy

    def check(self) -> None:
        if not self._uploads.checked:
            self._retry(self._remote.write, ".acsearch", b"")
            self._uploads.checked = True

    def address(self, path: Path) -> str:
        return f"{self.url}/{self._uploads.name(path)}"

    def push(self, folder: Path, keep: int) -> None:
        self._uploads.add(folder, keep)

    def push_file(self, path: Path) -> None:
        self._uploads.add(path)

    def drain(self, within: float | None = None) -> bool:
        return self._uploads.drain(self._report, within)

    def pull(self, folder: Path) -> bool:
        name = self._uploads.name(folder)
        manifest = self._retry(self._uploads.manifest, name)
        if manifest is None:
            return False
        try:
            files = parse_manifest(manifest)
            with commit.commit_folder(folder, files) as fresh:
                for file in files:
                    self._report(f"fetching {self.url}/{name}, {file}")
                    (fresh / file).parent.mkdir(parents=True, exist_ok=True)
                    self._retry(self._remote.get, content_name(name, manifest, file), fresh / file)
        except (ValueError, TrainingError, FileNotFoundError) as error:  # no manifest, or files that do not fit it
            self._report(f"{self.url}/{name}/{MANIFEST} does not count: {first_line(error)}")
            self._uploads.damaged.add(manifest)
            return False
        return True

    def pull_file(self, path: Path) -> bool:
        try:
            with atomic_write(path) as fresh:
                self._retry(self._remote.get, self._uploads.name(path), fresh)
        except FileNotFoundError:
            return False
        return True

    def pull_latest(self, stage: Path) -> None:
        here = commit.latest(stage)
        for step in reversed(self._retry(self._uploads.steps, self._uploads.name(stage))):
            if here is not None and step <= here.name:
                break
            if self.pull(stage / step):
                return
        if here is not None:
            self.push(here, keep=commit.KEEP)  # its writer may have been killed before it was uploaded

    def read(self, folder: Path, file: str) -> bytes | None:
        name = self._uploads.name(folder)
        manifest = self._retry(self._uploads.manifest, name)
        if manifest is None:
            return None
        try:
            digest = parse_manifest(manifest)[file]
        except (ValueError, KeyError):
            return None
        content = self._retry(self._remote.read, content_name(name, manifest, file))
        return content if content is not None and hashlib.sha256(content).hexdigest() == digest else None

    def files(self, folder: Path) -> list[Path]:
        return [folder / name for name in self._retry(self._remote.names, self._uploads.name(folder))]

    def remove_stale(self, stage: Path) -> None:
        self._retry(self._uploads.remove_stale, self._uploads.name(stage))

    def _retry(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._remote.retry(
            lambda reason: self._report(f"waiting for {self.url}: {reason}"), function, *arguments
        )
