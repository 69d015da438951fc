"""Bundles that somebody made up: sound as files, whatever is in them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import zstandard

from acsearch import __version__


def tar(members: list[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as whole:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            whole.addfile(info, io.BytesIO(content))
    return file.getvalue().rstrip(b"\0") + bytes(2048)


def sealed(file: Path, content: bytes) -> Path:
    compressed = zstandard.compress(content)
    trailer = bytes.fromhex("502a4d18") + (32).to_bytes(4, "little") + hashlib.sha256(compressed).digest()
    file.write_bytes(compressed + trailer)
    return file


def made_up(
    file: Path, content: dict[str, bytes], said: dict[str, bytes] | None = None, more: bytes = b"", **manifest: Any
) -> Path:
    """A bundle of these files, whose manifest says the others are in it. more: behind the last."""
    entries = {
        name: {"size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in (said or content).items()
    }
    about = {"format": 1, "acsearch": __version__, "study": "s", "host": "h", "files": entries} | manifest
    return packed(file, {"manifest.json": json.dumps(about).encode(), **content}, more)


def packed(file: Path, content: dict[str, bytes], more: bytes = b"") -> Path:
    """A bundle of these files, the manifest among them. more: behind the last."""
    pieces: list[bytes] = []
    for name, one in content.items():
        info = tarfile.TarInfo(name)
        info.size = len(one)
        pieces += [info.tobuf(tarfile.GNU_FORMAT), one, bytes(-len(one) % 512)]
    return sealed(file, b"".join([*pieces, more, bytes(1024)]))


def members_of(good: Path) -> dict[str, bytes]:
    """The files of a bundle, the manifest among them."""
    with (
        good.open("rb") as file,
        tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as tar,
    ):
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def content_of(good: Path) -> dict[str, Any]:
    study: dict[str, Any] = json.loads(members_of(good)["study.json"])
    return study
