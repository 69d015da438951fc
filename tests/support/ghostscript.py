"""PostScript that calls itself a picture, and a Ghostscript that leaves a file behind when it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image


def eps() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 0, 0)).save(buffer, "EPS")
    return buffer.getvalue()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gs` on the PATH. Returns the file that it leaves behind."""
    (folder / "bin").mkdir()
    (folder / "bin" / "gs").write_text(f"#!/bin/sh\necho 10.0; touch {folder}/ran\n")
    (folder / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin", prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    return folder / "ran"
