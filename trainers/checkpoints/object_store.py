"""Files at an address that fsspec knows, such as a bucket. It is waited for while it does not answer.

Names are paths below the address. Nothing is cached: others write there too. What they wrote need not be what we would
have: what is no regular file is as good as not there, and a name that we do not give is not listed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from trainers.checkpoints.commit import is_name
from trainers.errors import StoreError, first_line
from trainers.utils.progress import Reporter

T = TypeVar("T")

_LONGEST = 10.0  # seconds between two tries
_LARGEST = 2**30  # bytes that are read into memory
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # this machine's disk, not the store
_NO_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ELOOP}  # a folder in the place of a file, or the other way round
_USELESS = _LOCAL | _NO_FILE | {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EREMCHG}
_BROKEN_OFF = {"BadDigest", "IncompleteBody", "InvalidPart"}  # which s3fs takes for invalid arguments
_UNREACHABLE = {"HTTPClientError", "ConnectionError", "ClientError", "ResponseParserError", "IncompleteRead"}


class Remote:
    """Files at an address. Each method tries once and raises the errors of fsspec; `retry` tries again.

    Attributes:
        url: the address, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._base = open_address(self.url)

    def retry(self, report: Reporter, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function until the store answers.

        Args:
            report: is called with why the store did not answer.
            function: what to call, with the arguments that follow.

        Raises:
            StoreError: trying again is no use.
        """

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            assert error is not None
            report(first_line(error))

        wait = wait_random_exponential(max=_LONGEST)
        retrying = Retrying(retry=retry_if_exception(_is_away), wait=wait, before_sleep=before_sleep)
        try:
            return retrying(function, *arguments)
        except Exception as error:
            if (advice := self.advice(error)) is None:
                raise
            raise StoreError(f"work store {self.url}: {advice}") from error

    def advice(self, error: Exception) -> str | None:
        """What a person can do about an error; None where it says nothing about the store."""
        if _code(error) == "NoSuchBucket":
            return f"there is no bucket {self._base.split('/')[0]!r}: make it, or mend ACSEARCH_WORK"
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            return (
                f"access is refused ({first_line(error)}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "and that they may list, read, write and delete there"
            )
        if isinstance(error, OSError) and error.errno in _LOCAL:
            return f"this machine's disk: {error.strerror}; make room in the work folder"
        if isinstance(error, OSError) and error.errno in _NO_FILE:
            return f"{error.filename or self._base}: {error.strerror}; remove it from the store"
        theirs = isinstance(error, ValueError) or _code(error) or type(error).__module__.startswith("botocore")
        return first_line(error) if theirs else None

    def read(self, name: str, most: int = _LARGEST) -> bytes | None:
        """The contents of a file; None where it is not there.

        Args:
            name: of the file.
            most: bytes; of a larger file the first ones, and one more.
        """
        size = self.size(name)
        if size is None:
            return None
        try:
            found: bytes = self._fs.cat_file(self._at(name), end=most + 1 if size > most else None)
        except FileNotFoundError as error:  # removed meanwhile
            if _code(error):
                raise
            return None
        return found

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None where it is not there."""
        try:
            found = self._fs.info(self._at(name))
        except OSError as error:
            if _code(error) or not (isinstance(error, FileNotFoundError) or error.errno in _NO_FILE):
                raise
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def names(self, folder: str) -> list[str]:
        """The names of everything of ours directly in a folder."""
        try:
            names = [path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._at(folder), detail=False)]
        except OSError as error:
            if _code(error) or not (isinstance(error, FileNotFoundError) or error.errno in _NO_FILE):
                raise
            return []
        return [name for name in names if is_name(name)]

    def get(self, name: str, path: Path) -> None:
        """Download a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.size(name) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._fs.get_file(self._at(name), str(path))

    def put(self, path: Path, name: str) -> None:
        """Upload a file."""
        self._fs.put_file(str(path), self._at(name))

    def write(self, name: str, content: bytes, *, only_first: bool = False) -> None:
        """Write a small file.

        Args:
            name: of the file.
            content: its bytes.
            only_first: whether a file that is there already stays; the store itself decides who is first.
        """
        try:
            self._fs.pipe_file(self._at(name), content, mode="create" if only_first else "overwrite")
        except OSError as error:
            if _code(error) == "NotImplemented":  # one without conditional writes: a gap of milliseconds
                if self.size(name) is None:
                    self._fs.pipe_file(self._at(name), content)
            elif isinstance(error, FileExistsError):
                if self.size(name) is None:
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name) from error
            elif _code(error) != "PreconditionFailed":
                raise

    def remove(self, name: str, *, folder: bool = False) -> None:
        """Remove a file, or a folder with everything in it. Nothing happens where there is none."""
        try:
            self._fs.rm(self._at(name), recursive=folder)
        except FileNotFoundError as error:
            if _code(error):
                raise

    def abort_uploads(self, folder: str) -> None:
        """Remove what killed processes left of large files in a folder."""
        if not hasattr(self._fs, "call_s3"):
            return
        bucket, _, prefix = self._at(f"{folder}/").partition("/")
        found = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        for one in found.get("Uploads") or ():
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"


def open_address(url: str, **more: Any) -> tuple[Any, str]:
    """Open an fsspec address. Nothing is cached: others write there too.

    Args:
        url: the address, such as s3://bucket/prefix.
        more: options of its file system.

    Returns:
        The file system, and the path in it.

    Raises:
        StoreError: the address cannot be used.
    """
    import fsspec
    from fsspec.asyn import AsyncFileSystem

    parts = urlsplit(url)
    if re.search("://.*:.*@", url) or (parts.scheme.startswith(("s3", "http")) and "@" in parts.netloc):
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
