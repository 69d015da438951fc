"""The files of pretrained weights. What is hashed is what is loaded, and nothing else.

A library is never shown a folder of others. It gets a private one, which holds the safetensors files, the configuration
and what else was asked for by name; so a pickle, an adapter or code that lies beside them cannot take part. Small files
are copied into it as they were read and hashed; the weights are links to the files that were hashed.

    with read_files(folder, texts=("config.json",), weights=("model.safetensors",)).private_folder() as private:
        Model.from_pretrained(private)

An index of sharded weights may name safetensors files of its own folder. A file may be a link within its folder, or
into the cache of the Hugging Face hub, whose snapshots are links; not to anywhere else.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from trainers.errors import WeightsError

INDEX = ".index.json"
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")  # peft's
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.npz", "*.msgpack", "*.h5")
_LARGEST_TEXT = 2**27  # bytes; the tokenizer.json of a large vocabulary has 2**25
_LARGEST_INDEX = 2**24

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
Shard = Annotated[str, StringConstraints(pattern=_NAME + r"\.safetensors$")]
PickledShard = Annotated[str, StringConstraints(pattern=_NAME + r"\.bin$")]


class _Index(BaseModel, strict=True):
    """What of an index decides which files are read."""

    weight_map: Annotated[dict[str, Shard], Field(min_length=1, max_length=10**6)]


class _PickledIndex(BaseModel, strict=True):
    """The same of an index of pickles."""

    weight_map: Annotated[dict[str, PickledShard], Field(min_length=1, max_length=10**6)]


@dataclass(frozen=True)
class Pretrained:
    """Files of pretrained weights.

    Attributes:
        main: name of the safetensors file, or of the index of a sharded one; "" where no weights were asked for.
        texts: the contents of the small files by name, the index among them.
        weights: the safetensors files by name.
    """

    main: str
    texts: Mapping[str, bytes]
    weights: Mapping[str, Path]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(path.stat().st_size for path in self.weights.values())

    def digest(self) -> str:
        """SHA-256 of all files, with their names and sizes."""
        found = hashlib.sha256()
        for name in sorted({*self.texts, *self.weights}):
            if name in self.texts:
                found.update(f"{name}:{len(self.texts[name])}:".encode() + self.texts[name])
                continue
            found.update(f"{name}:{self.weights[name].stat().st_size}:".encode())
            with self.weights[name].open("rb") as file:
                while block := file.read(1 << 24):
                    found.update(block)
        return found.hexdigest()

    @contextmanager
    def private_folder(self) -> Iterator[Path]:
        """A folder that holds these files alone, while the block runs."""
        with tempfile.TemporaryDirectory(prefix="acsearch-") as name:
            folder = Path(name)
            for text, content in self.texts.items():
                (folder / text).write_bytes(content)
            for weights, path in self.weights.items():
                (folder / weights).symlink_to(path)
            yield folder


def read_files(folder: Path, texts: Sequence[str], weights: Sequence[str] = ()) -> Pretrained:
    """Find the files that are to be loaded, and read the small ones.

    Args:
        folder: where they are.
        texts: names of small files; one that is not there is left out.
        weights: names of safetensors files or their indices, best first; the first that is there is taken.

    Raises:
        FileNotFoundError: there are no weights; the message says what was expected.
        WeightsError: they cannot be used; the message says why.
        OSError: a file cannot be read.
    """
    for name in ADAPTERS if weights else ():
        if (folder / name).exists():
            raise WeightsError(
                f"come with an adapter, {name}, which acsearch does not apply: merge it into them (merge_and_unload of "
                "peft) and save the model again, or take the adapter out of the folder"
            )
    found = {name: content for name in texts if (content := _read(folder, name, _LARGEST_TEXT)) is not None}
    main = _choose(folder, weights) if weights else ""
    if main.endswith(INDEX):
        index = found[main] = _read(folder, main, _LARGEST_INDEX) or b""
        return Pretrained(main, found, {name: _file(folder, name, f"{main} names") for name in _shards(main, index)})
    return Pretrained(main, found, {main: _file(folder, main)} if main else {})


def read_file(path: Path) -> Pretrained:
    """A safetensors file without a configuration.

    Raises:
        OSError: it is not there.
    """
    return Pretrained(path.name, {}, {path.name: path.resolve(strict=True)})


def names_of_shards(folder: Path, main: str, *, pickled: bool = False) -> list[str]:
    """The files that an index names.

    Args:
        folder: where the index is.
        main: its name.
        pickled: whether it names pickles, not safetensors.

    Raises:
        WeightsError: it cannot be used.
        OSError: it cannot be read.
    """
    return _shards(main, _read(folder, main, _LARGEST_INDEX) or b"", pickled=pickled)


def _choose(folder: Path, names: Sequence[str]) -> str:
    for name in names:
        if _place(folder, name) is not None:
            return name
    for pickle in sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise WeightsError(pickle_message(pickle))
    raise FileNotFoundError(f"expected {' or '.join(names)}")


def pickle_message(name: str) -> str:
    """Why a file that is no safetensors file is refused."""
    return (
        f"are not safetensors but {name}, and acsearch loads safetensors alone, since a pickle can run code; save the "
        "model again as safetensors"
    )


def _shards(main: str, index: bytes, *, pickled: bool = False) -> list[str]:
    kind, files = (_PickledIndex, ".bin") if pickled else (_Index, "safetensors")
    try:
        return sorted(set(kind.model_validate_json(index).weight_map.values()))
    except ValidationError as error:
        raise WeightsError(
            f"cannot be used: {main} must have a weight_map to names of {files} files in its folder: "
            f"{error.errors(include_input=False, include_url=False)[0]['msg']}"
        ) from error


def _file(folder: Path, name: str, named: str = "there is") -> Path:
    place = _place(folder, name)
    if place is None:
        raise WeightsError(f"are not whole: {named} {name}, which is not there")
    return place


def _read(folder: Path, name: str, most: int) -> bytes | None:
    place = _place(folder, name)
    if place is None:
        return None
    if place.stat().st_size > most:
        raise WeightsError(f"cannot be used: {name} has more than {most} bytes")
    return place.read_bytes()


def _place(folder: Path, name: str) -> Path | None:
    """Where a regular file of a folder really is; None where there is none."""
    try:
        place = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return None
    if not place.is_file():
        return None
    is_blob = place.parent.name == "blobs" and place.parent.parent.name.startswith("models--")
    if not is_blob and not place.is_relative_to(folder.resolve()):
        raise WeightsError(f"cannot be used: {name} is a link out of the folder, to {place}; put the file itself there")
    return place
