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

import errno
import functools
import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from acsearch.errors import StoreError, TrainingError
from acsearch.locks import Locks
from acsearch.whole import whole
from trainers import checkpoint
from trainers.checkpoint import MARK, RESULT
from trainers.job import Shared

Say = Callable[[str], None]
T = TypeVar("T")

_LONGEST = 10.0  # seconds between two tries
_SMALL = 8 * 2**20  # bytes of a file that is sooner sent again than compared
_DIGITS = 16  # of the mark's SHA-256
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # this machine's disk, not the store
_USELESS = _LOCAL | {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EREMCHG, errno.EISDIR}
_BROKEN_OFF = {"BadDigest", "IncompleteBody", "InvalidPart"}  # which s3fs takes for invalid arguments
_UNREACHABLE = {"HTTPClientError", "ConnectionError", "ClientError", "ResponseParserError", "IncompleteRead"}


class Store:
    """No store: what is here stays here. say: is told what is waited for."""

    say: Say = staticmethod(lambda text: None)
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

    def sweep(self, stage: Path) -> None:
        """Remove from the store what others left beside a stage's committed result."""

    def result(self, stage: Path) -> Path | None:
        """A stage's committed result, brought here if it has to be."""
        result = stage / RESULT
        with Locks(stage).exclusive("lock"):  # nobody here is writing it
            return result if checkpoint.committed(result) or self.pull(result) else None


@functools.cache
def open_store(shared: Shared | None) -> Store:
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
        self._fs, self._base = open_address(self.url)
        self._changed = threading.Condition()
        self._lanes: dict[str, deque[_Upload]] = {}  # by folder: checkpoints do not wait behind all features
        self._trouble = ""  # why the last try failed
        self._failed: Exception | None = None
        self._damaged: set[bytes] = set()  # marks whose files were not what they say
        self._checked = False

    def check(self) -> None:
        if not self._checked:
            self._insist(self._fs.pipe_file, self._at(".acsearch"), b"")
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
                self._insist(self._upload, upload, tell=lambda reason: setattr(self, "_trouble", reason))
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
                self._put(upload.path, self._at(self._name(upload.path)), upload.path.stat().st_size >= _SMALL)
            else:
                self._put_folder(upload.path, upload.keep)
        except FileNotFoundError:
            if not (upload.keep and checkpoint.missing(upload.path)):
                raise
            # else a checkpoint that was superseded, and is pruned here

    def _put_folder(self, folder: Path, keep: int) -> None:
        mark, name = (folder / MARK).read_bytes(), self._name(folder)
        stage = str(PurePosixPath(name).parent)
        first = self._result(stage)
        if first is not None and folder.name != RESULT:
            return  # somebody was quicker
        if first is None and self._read(f"{name}/{MARK}") != mark:
            inside = f"{name}/{_digits(mark)}"
            self._abort_uploads(inside)
            for file in json.loads(mark):
                self._put(folder / file, self._at(f"{inside}/{file}"), True)
            self._put_mark(self._at(f"{name}/{MARK}"), mark, folder.name == RESULT)
        if folder.name == RESULT:
            self._sweep(stage)
        for step in reversed(self._steps(stage)):
            if keep == 0:
                self._remove(f"{stage}/{step}")
            elif self._read(f"{stage}/{step}/{MARK}") is not None:  # else another writer is at it, and may end
                keep -= 1

    def _result(self, stage: str) -> bytes | None:
        """The mark of a stage's result. One that did not fit its files is removed, so that another can be put."""
        mark = self._read(f"{stage}/{RESULT}/{MARK}")
        if mark in self._damaged:
            self._fs.rm_file(self._at(f"{stage}/{RESULT}/{MARK}"))
            return None
        return mark

    def _put_mark(self, remote: str, mark: bytes, unless_there: bool) -> None:
        try:
            self._fs.pipe_file(remote, mark, mode="create" if unless_there else "overwrite")
        except OSError as error:
            if _code(error) == "NotImplemented":  # a store without conditional writes: a gap of milliseconds
                self._fs.pipe_file(remote, mark)
            elif not isinstance(error, FileExistsError) and _code(error) != "PreconditionFailed":
                raise

    def _sweep(self, stage: str) -> None:
        mark = self._read(f"{stage}/{RESULT}/{MARK}")
        if mark is not None:
            for name in self._names(f"{stage}/{RESULT}"):
                if name not in (MARK, _digits(mark)):
                    self._remove(f"{stage}/{RESULT}/{name}")

    def _put(self, path: Path, remote: str, unless_there: bool) -> None:
        if unless_there:
            try:
                if self._fs.info(remote)["size"] == path.stat().st_size:
                    return
            except FileNotFoundError as error:
                if _code(error):
                    raise
        self._fs.put_file(str(path), remote)

    def _remove(self, name: str) -> None:
        """A folder, its mark first, and all that other writers left under its name."""
        self._abort_uploads(name)
        for remote, recursive in ((self._at(f"{name}/{MARK}"), False), (self._at(name), True)):
            try:
                self._fs.rm(remote, recursive=recursive)
            except FileNotFoundError as error:
                if _code(error):
                    raise

    def _abort_uploads(self, name: str) -> None:
        if not hasattr(self._fs, "call_s3"):
            return
        bucket, _, prefix = self._at(f"{name}/").partition("/")
        found = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        for one in found.get("Uploads") or ():
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])

    # -- downloads -----------------------------------------------------------------------------------------------------

    def pull(self, folder: Path) -> bool:
        name = self._name(folder)
        mark = self._insist(self._read, f"{name}/{MARK}")
        try:
            files: dict[str, str] = dict(json.loads(mark or b""))
            with checkpoint.committing(folder, files) as fresh:
                for file in files:
                    self.say(f"fetching {self.url}/{name}, {file}")
                    (fresh / file).parent.mkdir(parents=True, exist_ok=True)
                    remote = self._at(f"{name}/{_digits(mark or b'')}/{file}")
                    self._insist(self._fs.get_file, remote, str(fresh / file))
        except (ValueError, TypeError, TrainingError, FileNotFoundError):  # no mark, or files that do not fit it
            if mark is not None:
                self._damaged.add(mark)
            return False
        return True

    def pull_file(self, path: Path) -> bool:
        try:
            with whole(path) as fresh:
                self._insist(self._fs.get_file, self._at(self._name(path)), str(fresh))
        except FileNotFoundError:
            return False
        return True

    def pull_latest(self, stage: Path) -> None:
        here = checkpoint.latest(stage)
        for step in reversed(self._insist(self._steps, self._name(stage))):
            if here is not None and step <= here.name:
                break
            if self.pull(stage / step):
                return
        if here is not None:
            self.push(here, keep=checkpoint.KEEP)  # who wrote it may not have come to it

    def read(self, folder: Path, file: str) -> bytes | None:
        name = self._name(folder)
        mark = self._insist(self._read, f"{name}/{MARK}")
        return None if mark is None else self._insist(self._read, f"{name}/{_digits(mark)}/{file}")

    def _read(self, name: str) -> bytes | None:
        try:
            found: bytes = self._fs.cat_file(self._at(name))
        except FileNotFoundError as error:
            if _code(error):
                raise
            return None
        return found

    def files(self, folder: Path) -> list[Path]:
        return [folder / name for name in self._insist(self._names, self._name(folder))]

    def sweep(self, stage: Path) -> None:
        self._insist(self._sweep, self._name(stage))

    def _steps(self, stage: str) -> list[str]:
        return sorted(name for name in self._names(stage) if name.startswith(checkpoint.PREFIX))

    def _names(self, folder: str) -> list[str]:
        try:
            return [PurePosixPath(path).name for path in self._fs.ls(self._at(folder), detail=False)]
        except FileNotFoundError as error:
            if _code(error):
                raise
            return []

    # -- what may go wrong ---------------------------------------------------------------------------------------------

    def _insist(self, function: Callable[..., T], *arguments: Any, tell: Say | None = None) -> T:
        """Call until the store answers. Raises StoreError where trying again is no use."""
        inform = tell or (lambda reason: self.say(f"waiting for {self.url}: {reason}"))

        def before_sleep(state: RetryCallState) -> None:
            assert state.outcome is not None
            inform(_first_line(state.outcome.exception()))

        wait = wait_random_exponential(max=_LONGEST)
        retrying = Retrying(retry=retry_if_exception(_is_away), wait=wait, before_sleep=before_sleep)
        try:
            return retrying(function, *arguments)
        except Exception as error:
            if (advice := self.advice(error)) is None:
                raise
            raise StoreError(f"work store {self.url}: {advice}") from error

    def advice(self, error: Exception) -> str | None:
        """What a person can do about it."""
        if _code(error) == "NoSuchBucket":
            return f"there is no bucket {self._base.split('/')[0]!r}: make it, or mend ACSEARCH_WORK"
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            return (
                f"access is refused ({_first_line(error)}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "and that they may list, read, write and delete there"
            )
        if isinstance(error, OSError) and error.errno in _LOCAL:
            return f"this machine's disk: {error.strerror}; make room below {self._root}"
        theirs = isinstance(error, ValueError) or _code(error) or type(error).__module__.startswith("botocore")
        return _first_line(error) if theirs else None

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self._root).as_posix()

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"


def open_address(url: str, **more: Any) -> tuple[Any, str]:
    """The file system, and the path in it. Nothing is cached: others write there too.

    more: options of that file system.
    """
    import fsspec
    from fsspec.asyn import AsyncFileSystem

    parts = urlsplit(url)
    if re.search("://.*:.*@", url) or (parts.scheme.startswith("s3") and "@" in parts.netloc):
        raise StoreError("ACSEARCH_WORK: no credentials in the address; give them as AWS_ACCESS_KEY_ID and the like")
    options = {"use_listings_cache": False, "skip_instance_cache": True} | more
    if parts.scheme == "file":
        options["auto_mkdir"] = True
    try:
        found = fsspec.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StoreError(f"ACSEARCH_WORK {url}: {error}; for instance s3://bucket/prefix") from error
    system, base = found[0], str(found[1]).rstrip("/")
    if not base or "://" not in url:
        raise StoreError(f"ACSEARCH_WORK {url}: names no bucket; for instance s3://bucket/prefix")
    if isinstance(system, AsyncFileSystem):  # it would print what connections had to say after they were given up
        system.loop.set_exception_handler(lambda loop, context: None)
    return system, base


def _is_away(error: BaseException) -> bool:
    """Whether the store may answer later."""
    if isinstance(error, FileNotFoundError):
        return _code(error) == "NoSuchUpload"  # of a file in parts: the server forgot it
    if isinstance(error, PermissionError):
        return False
    if isinstance(error, OSError):
        return error.errno not in _USELESS or _code(error) in _BROKEN_OFF
    return any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__)


def _code(error: BaseException) -> str:
    """S3's name for what went wrong; "" for an object that is simply not there, and where there is none."""
    code = str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))
    return "" if code in ("404", "NoSuchKey") else code


def _digits(mark: bytes) -> str:
    return hashlib.sha256(mark).hexdigest()[:_DIGITS]


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
