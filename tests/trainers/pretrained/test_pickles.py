"""Pickled weights: tensors come out, and nothing else happens."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainers.errors import WeightsError
from trainers.pretrained.pickles import read_pickle, write_safetensors


class Escaped:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


def refused(path: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        read_pickle(path)
    assert len(str(error.value).splitlines()) == 1


def test_what_was_saved_is_kept_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    table = {
        "embedding.weight": base,
        "head.weight": base,  # tied
        "transposed": base.T,
        "part": base[2:4],
        "half": base.to(torch.bfloat16),
        "count": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(base + 1),
    }
    torch.save(table, tmp_path / "pytorch_model.bin")
    read = read_pickle(tmp_path / "pytorch_model.bin")
    write_safetensors(tmp_path / "model.safetensors", read)
    kept = load_file(tmp_path / "model.safetensors")
    assert set(kept) == set(table)
    for name, tensor in table.items():
        assert kept[name].dtype == tensor.dtype
        assert torch.equal(kept[name], tensor)


@pytest.mark.parametrize("wrapped", ["alone", "in a table", "as a name"])
def test_what_would_run_is_refused_by_its_name_and_does_not_run(tmp_path: Path, wrapped: str) -> None:
    evil: Any = Escaped(tmp_path / "ran")
    content = {"alone": evil, "in a table": {"a": torch.ones(2), "b": evil}, "as a name": {"a": {"b": [evil]}}}[wrapped]
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    refused(path, r"pytorch_model.bin holds more than tensors, (posix|os|nt)\.system, and acsearch runs nothing")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_not_even_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Escaped(tmp_path / "ran")))
    refused(path, "is damaged, or in the format from before torch 1.6")
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused(path, "is damaged, or in the format from before torch 1.6")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.ones(2)],
        torch.ones(2),
        {"state_dict": {"a": torch.ones(2)}},
        {"a": 1},
        {1: torch.ones(2)},
        {"__metadata__": torch.ones(2)},
        {"a" * 2000: torch.ones(2)},
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
    ],
    ids=str,
)
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    refused(tmp_path / "pytorch_model.bin", "cannot be used: pytorch_model.bin (is not|has)")


def test_a_small_file_does_not_become_large(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(1).expand(10**12)}, path)
    refused(path, "has a tensor larger than its bytes, 'a'")
    base = torch.ones(1_000_000)
    torch.save({f"{i}": base for i in range(10)}, path)
    refused(path, "the tensors of pytorch_model.bin are larger than the file")
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "plain.bin")
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in plain.namelist():
            packed.writestr(record, plain.read(record))
    assert path.stat().st_size < 100_000
    refused(path, "has compressed records, which torch never writes")


@pytest.mark.parametrize("cut", [10, 100, 1000])
def test_half_a_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-cut])
    refused(path, "pytorch_model.bin is damaged")
