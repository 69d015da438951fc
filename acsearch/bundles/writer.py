"""Write a bundle: a zstd-compressed tar that any tar program reads, written atomically.

    manifest.json                       format, study, where it was made, and size and SHA-256 of each file that follows
    study.json                          attributes and trials of the study; see `acsearch.bundles.merge`
    work/scores/, work/stages/          files of the work folder, under their content-addressed names

The tar holds regular files only, without times or owners, so the same study gives the same bytes. After it follows the
SHA-256 of everything before, in a frame that zstd skips. So a bundle that was truncated or changed is recognised before
anything is read from it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from acsearch import __version__
from acsearch.config.table_file import Name
from acsearch.errors import BundleError
from trainers.utils.atomic import atomic_write
from trainers.utils.strict_yaml import StrictModel, abbreviate

FORMAT = 1
STUDY = "study.json"
MANIFEST = "manifest.json"
SCORES = "work/scores/"
_FILE = r"[^/.\x00-\x1f][^/\x00-\x1f]{0,199}"
_NAMES = re.compile(
    rf"study\.json|{SCORES}[AC]-[0-9a-f]{{24}}\.json|work/stages/[0-9a-f]{{24}}/"
    rf"(outbox\.jsonl|eval/(results|samples)/{_FILE}|(result|step-[0-9]{{8}})/{_FILE})"
)
TRAILER = bytes.fromhex("502a4d18") + (32).to_bytes(4, "little")  # a skippable frame of 32 bytes
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20


Line = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Entry(StrictModel, strict=True):
    """A file of a bundle.

    Attributes:
        size: Size in bytes.
        sha256: SHA-256 of the content.
    """

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(StrictModel, strict=True):
    """What a bundle holds, and where it was made.

    Attributes:
        format: Version of the format.
        acsearch: Version of acsearch that wrote it.
        study: Name of the study.
        host: Name of the machine.
        files: The files after the manifest, in their order.
    """

    format: int
    acsearch: Line
    study: Name
    host: Line
    files: dict[str, Entry]

    @field_validator("files")
    @classmethod
    def _known(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        if unknown := [name for name in files if not _NAMES.fullmatch(name)]:
            raise ValueError(f"no bundle holds a file {abbreviate(unknown[0])}")
        if STUDY not in files:
            raise ValueError(f"no {STUDY}")
        return files


def pack(path: Path, study: str, host: str, files: Mapping[str, bytes | Path]) -> None:
    """Write a bundle.

    Args:
        path: The file to write, which must not exist.
        study: Name of the study.
        host: Name of this machine.
        files: Content, or path of a file with the content, by name in the bundle.

    Raises:
        BundleError: the file exists or cannot be written, or a file changed while it was read.
    """
    import zstandard

    try:
        if path.exists():
            raise BundleError(f"{path}: exists already; choose another name, or remove it")
        if not path.parent.is_dir():
            raise BundleError(f"{path}: the folder is not there; make it first")
        entries = {name: _entry(_pieces(content)) for name, content in files.items()}
        manifest = Manifest(format=FORMAT, acsearch=__version__, study=study, host=host, files=entries)
        text = manifest.model_dump_json(indent=1).encode()
        with atomic_write(path) as fresh, fresh.open("r+b") as file:
            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as tar:
                for name, content in {MANIFEST: text, **files}.items():
                    entry = entries.get(name) or _entry(_pieces(content))
                    tar.write(header(name, entry.size))
                    written = _entry(_through(_pieces(content, entry.size), tar.write))
                    if written != entry:
                        raise BundleError(f"{content!s}: changed while it was read; export again")
                    tar.write(bytes(-entry.size % BLOCK))
                tar.write(bytes(2 * BLOCK))
            file.seek(0)
            file.write(TRAILER + hashlib.file_digest(file, "sha256").digest())
    except FileNotFoundError as error:
        raise BundleError(f"{error.filename}: not there, or gone while it was read; export again") from error
    except OSError as error:
        raise BundleError(f"{error.filename or path}: {error.strerror}") from error


def header(name: str, size: int) -> bytes:
    """The tar header of a file of this size; the same arguments give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")  # GNU's: files may be larger than 8 GiB


def _pieces(content: bytes | Path, size: int | None = None) -> Iterator[bytes]:
    """The content in pieces, at most `size` bytes of it, because logs grow while they are read."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        left = os.fstat(file.fileno()).st_size if size is None else size
        while left and (piece := file.read(min(CHUNK, left))):
            left -= len(piece)
            yield piece


def _through(pieces: Iterator[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    for piece in pieces:
        write(piece)
        yield piece


def _entry(pieces: Iterator[bytes]) -> Entry:
    size, digest = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        digest.update(piece)
    return Entry(size=size, sha256=digest.hexdigest())
