"""Read a bundle: it is checked as a whole before anything is taken from it, and nothing in it is trusted.

The checksum at its end finds a file that was truncated or changed. Against a forged bundle everything else is checked
too: file names must be among those of `acsearch.bundles.writer`, every header of the tar must equal the one that
follows from the manifest, every file must have its checksum, and no more is unpacked than the manifest says and the
disk holds. Nothing is parsed that is beyond `acsearch.bundles.limits`.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, BinaryIO

from pydantic import BaseModel, Field, ValidationError

from acsearch import __version__
from acsearch.bundles import limits
from acsearch.bundles.writer import BLOCK, CHUNK, FORMAT, MANIFEST, SCORES, STUDY, TRAILER, Entry, Manifest, header
from acsearch.errors import BundleError
from acsearch.study.schema import first_error
from trainers.checkpoints import commit
from trainers.utils.regular_files import open_regular

if TYPE_CHECKING:
    import zstandard


class _Version(BaseModel):
    format: int
    acsearch: Annotated[str, Field(max_length=100, pattern="^[ -~]*$")] = "another version"


class Archive:
    """A bundle that has been checked from its first byte to its last; a context manager that closes the file.

    Args:
        path: The bundle.
        limit: Number of bytes that it may unpack to.

    Attributes:
        path: The bundle.
        manifest: Its manifest.
        texts: Contents of study.json, of measured scores and of the manifests of checkpoints, by name.

    Raises:
        BundleError: the file cannot be read, is damaged, or is not a bundle that acsearch can have made.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self._limit = path, limit
        self.texts: dict[str, bytes] = {}
        try:
            self._file: BinaryIO = open_regular(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        try:
            self._check_checksum()
            self.manifest = self._read_manifest()
            for name, chunks in self.members():
                if _is_text(name):
                    self.texts[name] = self._checked(name, b"".join(chunks))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def members(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Read all files of the bundle in order.

        Yields:
            Name and content of a file; the content is an iterator of pieces.

        Raises:
            BundleError: a file is not what the manifest says.
        """
        tar = self._tar()
        for _ in tar.file(MANIFEST, None):
            pass
        for name, entry in self.manifest.files.items():
            content = self._content(tar, name, entry)
            yield name, content
            for _ in content:  # what the caller did not read
                pass
        if tar.read(2 * BLOCK) != bytes(2 * BLOCK):
            raise self._broken("it goes on behind its last file")

    def _content(self, tar: _Tar, name: str, entry: Entry) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for piece in tar.file(name, entry.size):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != entry.sha256:
            raise self._broken(f"{name} does not have its checksum")

    def _check_checksum(self) -> None:
        """Raise BundleError unless the compressed tar has the checksum that follows it."""
        try:
            whole = self._file.seek(0, os.SEEK_END)
            end = whole - len(TRAILER) - 32
            self._file.seek(max(end, 0))
            trailer = self._file.read()
            if end <= 0 or not trailer.startswith(TRAILER):
                raise BundleError(f"{self.path}: not a whole bundle: cut short on its way, or not made by acsearch")
            self._file.seek(0)
            digest, left = hashlib.sha256(), end
            while left and (piece := self._file.read(min(CHUNK, left))):
                digest.update(piece)
                left -= len(piece)
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror}") from error
        if digest.digest() != trailer[len(TRAILER) :]:
            raise BundleError(f"{self.path}: damaged: its content does not have the checksum at its end; copy it again")

    def _read_manifest(self) -> Manifest:
        text = self._checked(MANIFEST, b"".join(self._tar().file(MANIFEST, None)))
        try:
            version = _Version.model_validate_json(text)
            if version.format != FORMAT:
                raise BundleError(
                    f"{self.path}: a bundle of format {version.format}, by acsearch {version.acsearch}; "
                    f"this is acsearch {__version__}, which reads format {FORMAT}"
                )
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise self._broken(f"{MANIFEST}: {first_error(error)}") from error
        self._check_sizes(manifest)
        return manifest

    def _check_sizes(self, manifest: Manifest) -> None:
        size = sum(entry.size for entry in manifest.files.values())
        if size > self._limit:
            raise BundleError(f"{self.path}: unpacks to {size / 1e9:.1f} GB, and {self._limit / 1e9:.1f} GB are free")
        packed = self._file.seek(0, os.SEEK_END)
        if size > limits.FREE + limits.DENSEST * packed:
            raise self._broken(f"it unpacks to {size / 1e9:.1f} GB, {size // packed} times its size")
        if sum(entry.size for name, entry in manifest.files.items() if _is_text(name)) > limits.TEXT_BYTES:
            raise self._broken(f"{STUDY} and other texts are larger than {limits.TEXT_BYTES} bytes")

    def _checked(self, name: str, text: bytes) -> bytes:
        try:
            limits.check_json(text)
        except ValueError as error:
            raise self._broken(f"{name}: {error}") from error
        return text

    def _tar(self) -> _Tar:
        import zstandard

        self._file.seek(0)
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.WINDOW_BYTES)
        return _Tar(decompressor.stream_reader(self._file, closefd=False), self._broken)

    def _broken(self, why: str) -> BundleError:
        return BundleError(f"{self.path}: not a bundle that acsearch can have made: {why}")


class _Tar:
    """Reads the files of a tar one after the other."""

    def __init__(self, stream: zstandard.ZstdDecompressionReader, broken: Callable[[str], BundleError]) -> None:
        self._stream, self._broken = stream, broken

    def file(self, name: str, size: int | None) -> Iterator[bytes]:
        """Read the next file, which must have this name, in pieces.

        A size of None takes the size that the header gives, up to that of the largest manifest.
        """
        if size is None:
            found = self.read(BLOCK)
            try:
                size = tarfile.TarInfo.frombuf(found, "utf-8", "surrogateescape").size
            except tarfile.HeaderError as error:
                raise self._broken(f"no tar: {error}") from error
            right = 0 <= size <= limits.MANIFEST_BYTES and found == header(name, size)
        else:
            expected = header(name, size)
            right = self.read(len(expected)) == expected
        if not right:
            raise self._broken(f"{name} is not where it should be")
        left = size
        while left:
            piece = self.read(min(CHUNK, left))
            left -= len(piece)
            yield piece
        if any(self.read(-size % BLOCK)):
            raise self._broken(f"{name} goes on behind its end")

    def read(self, size: int) -> bytes:
        """Read exactly this number of bytes."""
        from zstandard import ZstdError

        pieces = []
        while size:
            try:
                piece = self._stream.read(size)
            except ZstdError as error:
                raise self._broken(str(error)) from error
            if not piece:
                raise self._broken("it ends too early")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _is_text(name: str) -> bool:
    return name == STUDY or name.startswith(SCORES) or name.endswith(f"/{commit.MANIFEST}")
