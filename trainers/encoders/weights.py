"""Where an encoder's weights are: a local folder or file, or a snapshot of a hub repository. Safetensors only; those of
a repository that has only pickles are made here, once (see `trainers.pretrained.hub`).

Whatever the source, an adapter gets a private folder with the files that the digest is made of and no others (see
`trainers.pretrained`). None of them talks to a hub itself: there is one place that fetches, pins the revision, refuses
pickles, adapters and configurations that ask for more than a tower, and never runs a repository's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainers.encoders.spec import EncoderSpec
from trainers.errors import SpaceError, WeightsError
from trainers.pretrained.configuration import check_configuration, parse_configuration
from trainers.pretrained.files import Pretrained, pickle_message, read_file, read_files
from trainers.pretrained.hub import Snapshot, fetch


@dataclass(frozen=True)
class WeightsFiles:
    """The files that an adapter reads.

    Attributes:
        names: weights files, best first.
        configuration: the file that describes the tower.
        bare: whether a safetensors file without a configuration is enough.
    """

    names: tuple[str, ...]
    configuration: str
    bare: bool = False


@dataclass(frozen=True)
class Weights:
    """The weights of an encoder, ready to be loaded.

    Attributes:
        folder: holds the configuration and the weights, and nothing else.
        file: the safetensors file, or the index of a sharded one.
        source: where they are from, for messages.
        digest: "id@commit" of safetensors from a hub; else SHA-256 of the weights and their configuration.
        size: bytes of the weights.
        configuration: what the configuration says; None where there is none.
    """

    folder: Path
    file: Path
    source: Path
    digest: str
    size: int
    configuration: dict[str, Any] | None


@contextmanager
def open_weights(
    spec: EncoderSpec, names: Sequence[str], configuration: str, *, bare: bool = False
) -> Iterator[Weights]:
    """The weights of an encoder, while the block runs; those of a hub are downloaded.

    Args:
        spec: what the encoder is.
        names: weights files that the adapter can read, best first.
        configuration: the file that describes the tower.
        bare: whether a safetensors file without a configuration is enough.

    Raises:
        SpaceError: there are none; the message says which encoder, which id, and what to do.
        WeightsError: they cannot be used.
    """
    source, digest, files = _find(spec, names, configuration, bare)
    described = None
    if configuration in files.texts:
        described = _parse(spec, source / configuration, files.texts[configuration])
    with files.private_folder() as folder:
        yield Weights(folder, folder / files.main, source, digest or files.digest(), files.size, described)


def locate(spec: EncoderSpec, files: WeightsFiles) -> tuple[EncoderSpec, str]:
    """The same encoder with its weights in a local folder, and their digest. Nothing of them is loaded.

    Args:
        spec: what the encoder is.
        files: that its adapter reads.

    Raises:
        SpaceError: there are none; see `open_weights`.
        WeightsError: they cannot be used.
    """
    source, digest, found = _find(spec, files.names, files.configuration, files.bare)
    return replace(spec, weights=str(source)), digest or found.digest()


def _find(
    spec: EncoderSpec, names: Sequence[str], configuration: str, bare: bool
) -> tuple[Path, str | None, Pretrained]:
    """Where the weights are, how they are called where they are of a hub, and their files."""
    if spec.weights is None:
        raise SpaceError(f"the encoder {spec.name!r} names no weights; give it a hub id or a local folder")
    path = Path(spec.weights)
    if not path.is_absolute():
        found = _snapshot(spec, names, configuration)
        return found.folder, found.identity(spec.weights), found.files
    if path.is_dir():
        return path, None, _read_folder(spec, path, names, configuration)
    if path.is_file() and path.suffix == ".safetensors":
        if bare:
            return path, None, read_file(path)
        raise SpaceError(
            f"the weights of {spec.name!r} are the file '{path}'; its adapter needs the folder, with {configuration}"
        )
    if path.exists():
        raise WeightsError(pickle_message(path.name))
    raise SpaceError(f"the weights of {spec.name!r} are not there: no file or folder '{path}'{_point(spec)}")


def _read_folder(spec: EncoderSpec, folder: Path, names: Sequence[str], configuration: str) -> Pretrained:
    try:
        return read_files(folder, (configuration,), names)
    except FileNotFoundError as error:
        raise SpaceError(f"no weights for {spec.name!r} in '{folder}': {error}{_point(spec)}") from error


def local_configuration(spec: EncoderSpec, configuration: str) -> dict[str, Any] | None:
    """What the configuration in a local folder of weights says: enough for the shape. None where there is none.

    Raises:
        SpaceError: it cannot be read, or asks for what acsearch refuses; the message names the file.
    """
    path = Path(spec.weights or "", configuration)
    if not path.is_absolute() or not path.is_file():
        return None
    return _parse(spec, path, _read_folder(spec, path.parent, (), configuration).texts[configuration])


def check_options(spec: EncoderSpec, options: Mapping[str, Any]) -> None:
    """Check what an encoder's row says of its configuration.

    Raises:
        SpaceError: it asks for what acsearch refuses; the message names the key.
    """
    try:
        check_configuration(options)
    except WeightsError as error:
        raise SpaceError(f"cannot use the options of {spec.name!r}: {error}") from error


def _parse(spec: EncoderSpec, path: Path, content: bytes) -> dict[str, Any]:
    try:
        return parse_configuration(content)
    except WeightsError as error:
        raise SpaceError(f"cannot use the configuration of {spec.name!r}, '{path}': {error}") from error


def _point(spec: EncoderSpec) -> str:
    return (
        f"; put them there, or point 'weights' of {spec.name!r} in your encoders.yaml to a local folder that has them"
    )


def _snapshot(spec: EncoderSpec, names: Sequence[str], configuration: str) -> Snapshot:
    try:
        return fetch(spec.weights or "", spec.revision, (configuration,), names)
    except FileNotFoundError as error:
        raise SpaceError(
            f"no weights for {spec.name!r} in {spec.weights!r} on the Hugging Face hub: {error}"
        ) from error
    except WeightsError as error:
        at = f" at revision {spec.revision!r}" if spec.revision else ""
        raise SpaceError(
            f"the weights of {spec.name!r}, {spec.weights!r} on the Hugging Face hub{at}, {error}; to use a copy, "
            f"add {spec.name!r} to your encoders.yaml with 'weights' as the path of a local folder"
        ) from error
