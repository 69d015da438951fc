"""Tensors that processes save and load together by torch's distributed checkpoint, each writing its own shards.

The files are safetensors, with the place of every shard in their headers: a folder from others runs no code, as the
pickles of torch's usual format could. What is saved by some processes is loaded by any other number of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from trainers.checkpoints.commit import read_manifest
from trainers.errors import TrainingError, first_line

_SUFFIX = ".safetensors"


def start_saving(tensors: Mapping[str, Tensor], folder: Path, group: Any) -> Future[Any]:
    """Copy tensors to the CPU and begin to write them; returns as soon as they may change again.

    Args:
        tensors: whole ones or DTensors, by name; the same names on all processes.
        folder: where they are written; all processes reach it.
        group: of gloo processes that use it for nothing else; None for a process by itself.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _expect_one_process()
    saving: Any = async_save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    future: Future[Any] = saving
    return future


class Shards:
    """The tensors in a committed folder.

    Args:
        folder: the folder.

    Raises:
        TrainingError: it holds no tensors, or others than its manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found, listed = {path.name for path in folder.glob(f"*{_SUFFIX}")}, read_manifest(folder)
        if found != {name for name in listed if name.endswith(_SUFFIX)}:
            raise TrainingError(f"{folder}: other {_SUFFIX} files than its manifest names")
        try:
            metadata: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
            self._tensors = dict(metadata)
            for name, one in self._tensors.items():
                if sum(chunk.sizes.numel() for chunk in one.chunks) != one.size.numel():
                    raise ValueError(f"the parts of {name} do not make it up")
        except Exception as error:  # whatever safetensors and torch run into with a header that they do not expect
            raise TrainingError(f"{folder}: its tensors cannot be read: {first_line(error)}") from error

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._tensors)

    def load(self, into: Mapping[str, Tensor], group: Any) -> None:
        """Fill tensors with what the folder has under their names. All processes of the group call this.

        Args:
            into: whole tensors or DTensors by name, which are overwritten.
            group: as for `start_saving`.

        Raises:
            TrainingError: a tensor is missing, has another shape or type, or is not made of finite numbers.
        """
        if missing := set(into) - self.names:
            raise TrainingError(
                f"{self.folder}: of another model: {len(missing)} weights are missing, such as {min(missing)}"
            )
        for name, own in into.items():
            there = self._tensors[name]
            if there.size != own.shape or there.properties.dtype != own.dtype:
                raise TrainingError(
                    f"{self.folder}: weights of another model: {name} {tuple(there.size)} {there.properties.dtype}; "
                    f"this one has {tuple(own.shape)} {own.dtype}"
                )
        reader = HuggingFaceStorageReader(str(self.folder))
        _expect_one_process()
        try:
            load(dict(into), storage_reader=reader, process_group=group, no_dist=group is None)
        except Exception as error:  # as above
            raise TrainingError(f"{self.folder}: its tensors cannot be read: {first_line(error)}") from error
        for name, own in into.items():
            local = own.to_local() if isinstance(own, DTensor) else own
            if not bool(torch.isfinite(local).all()):
                raise TrainingError(f"{self.folder}: the weight {name} ({own.dtype}) is not made of finite numbers")


def _expect_one_process() -> None:
    """Leave out torch's warning, also in its threads, that a process by itself is one."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
