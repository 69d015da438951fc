"""Weights in torch's pickled format: read without running anything that is in them, and written as safetensors.

torch reads them with `weights_only`, which builds tensors and refuses all else. What it trusts is checked before and
after: nothing is unpacked, so that a file never becomes more than it is on the disk, and no tensor is larger than the
bytes behind it.

    table = read_pickle(Path("pytorch_model.bin"))      # {name: tensor}, mapped from the file
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainers.errors import WeightsError

_SHARED = 2  # tensors of a file may have as many times its bytes: a head and an embedding are often one
_SLACK = 2**20
_LONGEST_NAME = 1000


def read_pickle(path: Path, called: str | None = None) -> dict[str, torch.Tensor]:
    """Read the tensors of a file.

    Args:
        path: of a file that `torch.save` wrote, in the format since torch 1.6.
        called: its name in messages, where the path is not that of its name.

    Returns:
        The tensors by name. They stay in the file until they are used.

    Raises:
        WeightsError: it is not made of tensors alone, or is damaged; the message says why.
        OSError: it cannot be read.
    """
    name = called or path.name
    _check_archive(path, name)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes torch run into
        raise WeightsError(f"cannot be used: {name} {_reason(error)}") from error
    _check_tensors(found, path.stat().st_size, name)
    return {key: tensor.detach() for key, tensor in found.items()}


def write_safetensors(path: Path, table: Mapping[str, torch.Tensor]) -> None:
    """Write tensors, each with memory of its own.

    Raises:
        WeightsError: safetensors has no such type.
        OSError: it cannot be written.
    """
    seen: set[int] = set()
    own = {}
    for name, tensor in table.items():
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in seen else tensor.contiguous()
        seen.add(storage)
    try:
        save_file(own, path, metadata={"format": "pt"})
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"cannot be kept as safetensors: {' '.join(str(error).split())[:200]}") from error


def _check_archive(path: Path, name: str) -> None:
    """A zip file whose records are stored as they are, and are not larger together than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"cannot be used: {name} is damaged, or in the format from before torch 1.6; save it again"
        ) from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise WeightsError(f"cannot be used: {name} has compressed records, which torch never writes")


def _check_tensors(found: Any, size: int, name: str) -> None:
    if not isinstance(found, dict) or not found:
        raise WeightsError(f"cannot be used: {name} is not a table of tensors by name")
    total = 0
    for key, tensor in found.items():
        if not isinstance(key, str) or len(key) > _LONGEST_NAME or key == "__metadata__":
            raise WeightsError(f"cannot be used: {name} has {key!r:.80} in the place of a tensor's name")
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise WeightsError(f"cannot be used: {name} has something else than a plain tensor at {key!r:.80}")
        own = tensor.numel() * tensor.element_size()
        if own > tensor.untyped_storage().nbytes():
            raise WeightsError(f"cannot be used: {name} has a tensor larger than its bytes, {key!r:.80}")
        total += own
    if total > _SHARED * size + _SLACK:
        raise WeightsError(f"cannot be used: the tensors of {name} are larger than the file")


def _reason(error: Exception) -> str:
    """torch explains in many lines; what it refuses to build is in one of them."""
    refused = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
    if refused:
        return f"holds more than tensors, {refused[1]}, and acsearch runs nothing that is in a pickle"
    return f"cannot be read as tensors: {' '.join(str(error).split())[:160]}"
