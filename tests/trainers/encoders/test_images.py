"""Image files: the formats of photographs and figures, whatever they are called, and none that runs a program."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from support import ghostscript
from trainers.encoders.images import FORMATS, open_image
from trainers.errors import DataError


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 0, 0)).save(buffer, name)
    (tmp_path / "picture.x").write_bytes(buffer.getvalue())
    for source in (buffer.getvalue(), tmp_path / "picture.x"):
        assert open_image(source).size == (16, 16)


@pytest.mark.parametrize("name", ["picture.jpg", "picture.eps", "picture"])
def test_postscript_does_not_reach_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ran = ghostscript.install(tmp_path, monkeypatch)
    (tmp_path / name).write_bytes(ghostscript.eps())
    for source in (ghostscript.eps(), tmp_path / name):
        with pytest.raises(DataError, match="cannot read an image from .*: none of JPEG, PNG, "):
            open_image(source)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["PCX", "PDF", "ICNS", "PSD"])
def test_other_formats_are_refused(name: str) -> None:
    buffer = io.BytesIO()
    if name == "PSD":
        buffer.write(b"8BPS\0\1" + bytes(20))
    else:
        Image.new("RGB", (16, 16)).save(buffer, name)
    with pytest.raises(DataError, match="none of JPEG, PNG, "):
        open_image(buffer.getvalue())
