"""Where an encoder's weights are: a local folder or file, or a snapshot of a hub repository. Safetensors only.

Whatever the source, an adapter gets a local path, so that none of them talks to a hub itself: there is one place that
fetches, pins the revision, refuses pickles and never runs a repository's code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.encoders.spec import EncoderSpec
from trainers.errors import SpaceError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.npz", "*.msgpack", "*.h5")


@dataclass(frozen=True)
class Weights:
    """Where the weights of an encoder are on this machine.

    Attributes:
        folder: holds the configuration and the weights.
        file: the safetensors file, or the index of a sharded one.
        digest: SHA-256 of local weights and their configuration, or "id@commit" of weights from a hub.
    """

    folder: Path
    file: Path
    digest: str


def find_weights(spec: EncoderSpec, names: Sequence[str], configuration: str, *, bare: bool = False) -> Weights:
    """Find the weights of an encoder; those of a hub are downloaded.

    Args:
        spec: what the encoder is.
        names: weights files that the adapter can read, best first.
        configuration: the file that describes the tower.
        bare: whether a safetensors file without a configuration is enough.

    Raises:
        SpaceError: there are none that can be used; the message says which encoder, which id, and what to do.
    """
    if spec.weights is None:
        raise SpaceError(f"the encoder {spec.name!r} names no weights; give it a hub id or a local folder")
    path = Path(spec.weights)
    if not path.is_absolute():
        folder = _snapshot(spec, names, configuration)
        return Weights(folder, _choose(spec, folder, names), f"{spec.weights}@{folder.name}")
    if path.is_dir():
        file = _choose(spec, path, names)
        hashed = sorted({file, *path.glob(f"{file.name.split('.')[0]}-*.safetensors"), path / configuration})
        return Weights(path, file, _sha256([entry for entry in hashed if entry.exists()]))
    if path.is_file() and path.suffix == ".safetensors":
        if bare:
            return Weights(path.parent, path, _sha256([path]))
        raise SpaceError(
            f"the weights of {spec.name!r} are the file '{path}'; its adapter needs the folder, with {configuration}"
        )
    if path.exists():
        raise SpaceError(_pickle_message(spec, path.parent, path.name))
    raise SpaceError(f"the weights of {spec.name!r} are not there: no file or folder '{path}'{_point(spec)}")


def local_configuration(spec: EncoderSpec, configuration: str) -> Path | None:
    """The path of the configuration in a local folder of weights: enough for the shape. None where there is none."""
    path = Path(spec.weights or "", configuration)
    return path if path.is_absolute() and path.is_file() else None


def read_configuration(spec: EncoderSpec, path: Path) -> dict[str, Any]:
    """Read a configuration in JSON.

    Raises:
        SpaceError: it cannot be read; the message names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpaceError(f"cannot read the configuration of {spec.name!r}, '{path}': {error}") from error
    if not isinstance(found, dict):
        raise SpaceError(f"the configuration of {spec.name!r}, '{path}', is not a JSON object")
    return found


def _choose(spec: EncoderSpec, folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise SpaceError(_pickle_message(spec, folder, pickles[0]))
    raise SpaceError(f"no weights for {spec.name!r} in '{folder}': expected {' or '.join(names)}{_point(spec)}")


def _pickle_message(spec: EncoderSpec, folder: Path, name: str) -> str:
    return (
        f"the weights of {spec.name!r} in '{folder}' are not safetensors but {name}, and acsearch loads safetensors "
        "alone, since a pickle can run code; save the model again as safetensors"
    )


def _point(spec: EncoderSpec) -> str:
    return (
        f"; put them there, or point 'weights' of {spec.name!r} in your encoders.yaml to a local folder that has them"
    )


def _snapshot(spec: EncoderSpec, names: Sequence[str], configuration: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download

    shards = [name.removesuffix(".index.json").replace(".safetensors", "-*.safetensors") for name in names]
    try:
        folder = snapshot_download(
            spec.weights or "", revision=spec.revision, allow_patterns=[configuration, *names, *shards]
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        at = f" at revision {spec.revision!r}" if spec.revision else ""
        raise SpaceError(
            f"cannot get the weights of {spec.name!r}, {spec.weights!r} on the Hugging Face hub{at}: {reason}; to use "
            f"a copy, add {spec.name!r} to your encoders.yaml with 'weights' as the path of a local folder"
        ) from error
    return Path(folder)


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
