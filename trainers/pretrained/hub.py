"""Pretrained weights of the Hugging Face hub. Here alone something is fetched.

A repository that has only pickles, as those of before safetensors, is converted once: its `.bin` files are read without
running anything in them (see `pickles`), and kept as safetensors beside the hub's cache:

    ~/.cache/huggingface/hub/models--lmsys--vicuna-7b-v1.5/snapshots/<commit>/pytorch_model-00001-of-00002.bin ...
    ~/.cache/huggingface/acsearch/models--lmsys--vicuna-7b-v1.5/<commit>/model.safetensors.index.json ...

The folder gets its name when all is written, so half a conversion is never used; of several processes one converts and
the others wait. What is loaded is then what is hashed: the safetensors files. The `.bin` files are not needed any more.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.errors import WeightsError
from trainers.pretrained.files import ADAPTERS, INDEX, Pretrained, names_of_shards, read_files
from trainers.pretrained.pickles import read_pickle, write_safetensors
from trainers.utils.locks import Locks

# What stands for safetensors files where a repository has none
PICKLES = {
    "model.safetensors": "pytorch_model.bin",
    "model.safetensors.index.json": "pytorch_model.bin.index.json",
    "open_clip_model.safetensors": "open_clip_pytorch_model.bin",
}
_log = logging.getLogger("acsearch")


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        folder: of the hub's cache.
        files: what is to be loaded.
        converted: whether the weights were pickles there.
    """

    folder: Path
    files: Pretrained
    converted: bool

    @property
    def commit(self) -> str:
        return self.folder.name

    def identity(self, repository: str) -> str:
        """What stands for these weights: the repository and its commit; the digest of what was converted here."""
        return self.files.digest() if self.converted else f"{repository}@{self.commit}"


def fetch(
    repository: str, revision: str | None, texts: Sequence[str], weights: Sequence[str] = (), *, local: bool = False
) -> Snapshot:
    """Fetch files of a repository, and of a sharded model what its index names.

    Args:
        repository: its id.
        revision: branch, tag or commit; None for the default branch.
        texts: names of small files; one that is not there is left out.
        weights: names of safetensors files or their indices, best first; the first that is there is taken.
        local: whether to take them from the cache alone.

    Raises:
        FileNotFoundError: there are no weights; the message says what was expected.
        WeightsError: they cannot be had or used; the message says why.
        OSError: a file cannot be read.
    """
    hub = _Hub(repository, local)
    folder = hub.download(revision, [*texts, *weights, ADAPTERS[0]])
    main = _first(folder, weights)
    if main and main.endswith(INDEX):
        hub.download(folder.name, names_of_shards(folder, main))
    if main or not weights:
        return Snapshot(folder, read_files(folder, texts, weights), converted=False)
    kept = _convert(hub, folder, [name for name in weights if name in PICKLES])
    if kept is None:
        return Snapshot(folder, read_files(folder, texts, weights), converted=False)  # says what was expected
    found = read_files(folder, texts)
    converted = read_files(kept, (), weights)
    return Snapshot(
        folder, Pretrained(converted.main, {**found.texts, **converted.texts}, converted.weights), converted=True
    )


class _Hub:
    def __init__(self, repository: str, local: bool) -> None:
        self.repository, self._local = repository, local

    def download(self, revision: str | None, names: Sequence[str]) -> Path:
        """The folder with these files, as far as they exist; its name is the commit."""
        import httpx
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    self.repository, revision=revision, allow_patterns=list(names), local_files_only=self._local
                )
            )
        except (OSError, ValueError, httpx.HTTPError) as error:
            raise WeightsError(f"cannot be had: {' '.join(str(error).split())[:200]}") from error


def _convert(hub: _Hub, folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of a repository's weights as safetensors, converted if they are not yet; None if it has no pickles."""
    kept = converted_folder(hub.repository, folder.name)
    if kept.is_dir():
        return kept
    pickles = {PICKLES[name]: name for name in names}
    hub.download(folder.name, list(pickles))
    main = _first(folder, list(pickles))
    if main is None:
        return None
    bins = names_of_shards(folder, main, pickled=True) if main.endswith(INDEX) else [main]
    if main.endswith(INDEX):
        hub.download(folder.name, bins)
    try:
        with Locks(kept.parent).exclusive(f"{kept.name}.lock"):
            if not kept.is_dir():  # somebody else has just done it
                _log.warning("%s: has pickled weights only; keeping them as safetensors in %s", hub.repository, kept)
                _write(folder, bins, pickles[main], kept)
    except OSError as error:
        raise WeightsError(
            f"cannot be kept as safetensors in {kept}: {error.strerror or error}; set HF_HOME to a folder with room"
        ) from error
    return kept


def converted_folder(repository: str, commit: str) -> Path:
    """Where the safetensors made of a repository's pickles are."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE).parent / "acsearch" / name / commit


def _write(folder: Path, bins: Sequence[str], main: str, kept: Path) -> None:
    """Convert each file, and give the whole its name at the end."""
    ours = f".{kept.name}.{socket.gethostname()}."
    for left in kept.parent.glob(f"{ours}*"):  # of a process that died: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    fresh = kept.parent / f"{ours}{os.getpid()}"
    fresh.mkdir()
    try:
        where = {}
        for name in bins:
            table = read_pickle(read_files(folder, (), [name]).weights[name], name)
            target = f"{Path(name).stem}.safetensors" if main.endswith(INDEX) else main
            write_safetensors(fresh / target, table)
            where.update(dict.fromkeys(table, target))
        if main.endswith(INDEX):
            total = sum(path.stat().st_size for path in fresh.iterdir())
            content = {"metadata": {"total_size": total}, "weight_map": where}
            (fresh / main).write_text(json.dumps(content, indent=1, sort_keys=True))
        for path in fresh.iterdir():
            _sync(path)
        try:
            fresh.rename(kept)
        except OSError:
            if not kept.is_dir():  # another machine, whose locks we do not see, was faster
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first(folder: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (folder / name).is_file()), None)
