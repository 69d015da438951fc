"""Tensors that are saved together and loaded by others, and by nobody whom they do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainers.checkpoints import commit
from trainers.checkpoints.shards import Shards, start_saving
from trainers.errors import TrainingError


def tensors() -> dict[str, Tensor]:
    return {"weight": torch.arange(6.0).reshape(3, 2), "optimizer.weight.step": torch.tensor(4.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    given = tensors()
    with commit.commit_folder(tmp_path / "step-1") as fresh:
        saving = start_saving(given, fresh, None)
        given["weight"].zero_()  # training goes on
        saving.result()
    return tmp_path / "step-1"


def test_what_is_saved_is_what_was_there_when_saving_began(folder: Path) -> None:
    found = {name: torch.full_like(one, 9.0) for name, one in tensors().items()}
    shards = Shards(folder)
    assert shards.names == set(found)
    shards.load(found, None)
    assert all(torch.equal(found[name], one) for name, one in tensors().items())
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}  # no pickles


@pytest.mark.parametrize(
    ("into", "said"),
    [
        ({"other": torch.zeros(1)}, "of another model: 1 weights are missing, such as other"),
        ({"weight": torch.zeros(2, 3)}, r"weights of another model: weight \(3, 2\) torch.float32; this one has"),
        ({"weight": torch.zeros(3, 2).half()}, "weights of another model: weight"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, into: dict[str, Tensor], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Shards(folder).load(into, None)


def changed(folder: Path, **metadata: str) -> None:
    """Write the tensors of a folder again, the first of them not a number, and seal it."""
    file = next(folder.glob("*.safetensors"))
    found = load_file(file)
    if not metadata:
        found["weight"][0, 0] = float("nan")
    save_file(found, file, metadata=metadata or None)
    sealed(folder)


def sealed(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != commit.MANIFEST}
    with commit.commit_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    changed(folder)
    with pytest.raises(TrainingError, match="the weight weight .* is not made of finite numbers"):
        Shards(folder).load(tensors(), None)


@pytest.mark.parametrize("said", ['{"weight": {"saved_offsets": [1, 0]}}', "[", "[]", "null", '{"weight": 3}'])
def test_shards_that_do_not_make_up_a_tensor_are_refused(folder: Path, said: str) -> None:
    changed(folder, DCP_SHARDING_INFO=said)
    if said == "null":  # nothing is said: they are whole
        assert Shards(folder).names
        return
    with pytest.raises(TrainingError, match="its tensors cannot be read"):
        Shards(folder)


def test_files_that_the_manifest_does_not_name_are_not_read(folder: Path) -> None:
    save_file({"weight": torch.ones(3, 2)}, folder / "more.safetensors")
    with pytest.raises(TrainingError, match="other .safetensors files than its manifest names"):
        Shards(folder)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """Neither that of torch's usual distributed checkpoints, nor one in place of tensors."""
    escaped = tmp_path / "escaped"
    (folder / ".metadata").write_bytes(pickle.dumps(Trap(escaped)))
    Shards(folder).load(tensors(), None)
    (folder / ".metadata").unlink()
    torch.save({"weight": Trap(escaped)}, next(folder.glob("*.safetensors")))
    sealed(folder)
    with pytest.raises(TrainingError, match="its tensors cannot be read"):
        Shards(folder)
    assert not escaped.exists()
