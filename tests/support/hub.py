"""A cache of the Hugging Face hub that holds repositories as a download leaves them; the hub itself is out of reach."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name


class CachedHub:
    """home: as HF_HOME; environment: for processes of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}

    def add(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A commit of a repository, to which a branch then leads. Returns its name."""
        folder = self.home / "hub" / repo_folder_name(repo_id=repository, repo_type="model")
        commit = hashlib.sha1(repr(sorted((name, hashlib.sha1(files[name]).hexdigest()) for name in files)).encode())
        snapshot = folder / "snapshots" / commit.hexdigest()
        for part in (snapshot, folder / "blobs", folder / "refs"):
            part.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            if not (snapshot / name).exists():
                (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
        (folder / "refs" / branch).write_text(commit.hexdigest())
        return commit.hexdigest()

    def remove(self, repository: str, name: str) -> None:
        """A file that a user deleted to have room."""
        folder = self.home / "hub" / repo_folder_name(repo_id=repository, repo_type="model")
        for path in folder.glob(f"snapshots/*/{name}"):
            path.resolve().unlink()
            path.unlink()


def cached_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CachedHub:
    """The one that this process looks into."""
    made = CachedHub(folder / "huggingface")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(made.home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return made
