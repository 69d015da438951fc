"""The encoders by name: `registry.yaml`, which ships with acsearch, and a study's own `encoders.yaml`, in one mapping.

A row is an `EncoderSpec`, its key the name. Where an encoder was trained at several sizes, `checkpoints` gives each
size's model, weights and revision instead of the row's own:

    clip-l14:
      {adapter: timm, licence: MIT, patch: 14, width: 1024, prefix_tokens: 1, mean: [...], std: [...], checkpoints:
        {224: {model: vit_large_patch14_clip_quickgelu_224.openai, weights: timm/vit_large_patch14_clip_224.openai},
         336: {model: vit_large_patch14_clip_quickgelu_336.openai, weights: timm/vit_large_patch14_clip_336.openai}}}

`weights` is local where a file or folder of that path is beside the YAML file, or where it reads as a path ("./x",
"../x", "/x", "x.safetensors"); else it is a hub id. A study's row replaces a shipped one of the same name.

A new encoder is one row. A new library is one file with `load` (see `base.Loader`) and `WEIGHTS`, the files that it
reads (None for none), and one line in `ADAPTERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError

from trainers.encoders.base import Encoder, Loader, fingerprint_of
from trainers.encoders.spec import Checkpoint, EncoderSpec, Triple
from trainers.encoders.weights import locate
from trainers.errors import AcsearchError, ConfigError, SpaceError, WeightsError
from trainers.pretrained.tensors import check_finite
from trainers.representation import Part
from trainers.utils.parsing import parse_yaml
from trainers.utils.regular_files import read_text
from trainers.utils.strict_yaml import StrictModel, first_problem
from trainers.utils.suggest import suggest

BUILT_IN = Path(__file__).with_name("registry.yaml")

# The module of each adapter: imported when the first of its encoders is made, since each imports a large library.
ADAPTERS = {
    "timm": "trainers.encoders.timm_",
    "transformers": "trainers.encoders.transformers_",
    "open_clip": "trainers.encoders.open_clip_",
    "noise": "trainers.encoders.noise",
    "denoiser": "trainers.encoders.denoiser",
}


class Registry(Mapping[str, EncoderSpec]):
    """The known encoders by name."""

    def __init__(self, specs: Mapping[str, EncoderSpec]) -> None:
        self._specs = dict(specs)

    def __getitem__(self, name: str) -> EncoderSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def find(self, part: Part) -> EncoderSpec:
        """The spec of a part's encoder, with the checkpoint for its size.

        Raises:
            SpaceError: there is no such encoder; the message suggests the nearest name.
        """
        if part.encoder not in self._specs:
            hint = suggest(part.encoder, self._specs)
            raise SpaceError(f"no encoder {part.encoder!r} in the registry; {hint}")
        return self._specs[part.encoder].at(part.size)


def load_registry(*extra: Path) -> Registry:
    """Read the encoders that ship with acsearch, and those of further YAML files.

    Args:
        extra: the further files; a row of a later file replaces one of an earlier file.

    Raises:
        ConfigError: a file cannot be used; the message names file, row and key.
    """
    specs: dict[str, EncoderSpec] = {}
    for path in extra:
        specs.update(_read(path))
    return Registry(_built_in() | specs)


@cache
def _built_in() -> dict[str, EncoderSpec]:
    return _read(BUILT_IN)


def make_encoder(
    part: Part, registry: Registry, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Encoder:
    """Build the encoder that a part names. The global random generators are left as they were.

    Args:
        part: the encoder's name, size and layer.
        registry: the known encoders.
        device: where it computes; "meta" builds the shape without weights, network or files.
        dtype: its precision.

    Raises:
        SpaceError: the encoder is unknown, or its weights cannot be used.
    """
    spec = registry.find(part)
    load: Loader = importlib.import_module(ADAPTERS[spec.adapter]).load
    layer = spec.layer if part.layer is None else part.layer
    with torch.random.fork_rng(devices=[]), _explained(spec):  # towers are random before their weights are loaded
        encoder = load(spec, part.size, layer, device=torch.device(device), dtype=dtype)
        if not encoder.mean.is_meta:
            check_finite(encoder)
    if part.layer is None and encoder.width != spec.width:
        raise SpaceError(
            f"{spec.name} declares a width of {spec.width}, its tower has {encoder.width}; correct 'width'"
        )
    return encoder


def describe_encoder(part: Part, registry: Registry) -> Encoder:
    """Build the encoder that a part names without its weights, on the meta device, but with their fingerprint.

    Weights of a hub are downloaded, so that the shape is theirs.

    Args:
        part: the encoder's name, size and layer.
        registry: the known encoders.

    Raises:
        SpaceError: the encoder is unknown, or its weights are not there.
    """
    spec = registry.find(part)
    adapter = importlib.import_module(ADAPTERS[spec.adapter])
    if adapter.WEIGHTS is None:
        return make_encoder(part, registry, device="meta")
    with _explained(spec):
        local, digest = locate(spec, adapter.WEIGHTS)
    encoder = make_encoder(part, Registry({spec.name: replace(local, checkpoints=())}), device="meta")
    encoder.fingerprint = fingerprint_of(spec, encoder.size, encoder.layer, digest)
    return encoder


@contextmanager
def _explained(spec: EncoderSpec) -> Iterator[None]:
    """Have errors name the encoder."""
    try:
        yield
    except SafetensorError as error:
        raise SpaceError(f"the weights of {spec.name!r}, '{spec.weights}', are damaged: {error}") from error
    except WeightsError as error:
        raise SpaceError(f"the weights of {spec.name!r}, '{spec.weights}', {error}") from error
    except (AcsearchError, OSError, torch.OutOfMemoryError):  # a disk or a network that fails is tried again
        raise
    except Exception as error:  # whatever a library runs into with a configuration that it does not expect
        raise SpaceError(
            f"the encoder {spec.name!r} cannot be made of '{spec.weights}': {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; is its configuration damaged?"
        ) from error


_Positive = Annotated[int, Field(ge=1)]
_Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class _CheckpointRow(StrictModel, strict=True):
    model: str | None = None
    weights: str | None = None
    revision: str | None = None


class _EncoderRow(_CheckpointRow):
    adapter: str
    licence: str
    native_size: _Positive | None = None
    patch: _Positive
    width: _Positive
    prefix_tokens: Annotated[int, Field(ge=0)] = 0
    mean: _Channels
    std: _Channels
    layer: int = -2
    notes: str = ""
    options: dict[str, Any] = {}
    checkpoints: Annotated[dict[_Positive, _CheckpointRow], Field(min_length=1)] | None = None


def _read(path: Path) -> dict[str, EncoderSpec]:
    try:
        rows = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the encoders in '{path}': {' '.join(str(error).split())}") from error
    if not isinstance(rows, dict):
        raise ConfigError(f"'{path}' has no encoders; expected rows 'name: {{adapter: ..., weights: ...}}'")
    return {str(name): _spec(str(name), row, path) for name, row in rows.items()}


def _spec(name: str, given: Any, path: Path) -> EncoderSpec:
    where = f"the encoder {name!r} in '{path}'"
    try:
        Part(name, 1)  # a name the grammar can read
        row = _EncoderRow.model_validate(given)
    except SpaceError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, _EncoderRow)}") from error
    if row.adapter not in ADAPTERS:
        raise ConfigError(f"{where} has the unknown adapter {row.adapter!r}; known: {', '.join(ADAPTERS)}")
    if min(row.std) <= 0:
        raise ConfigError(f"{where} has std {row.std}; every channel's must be above 0")
    if (row.checkpoints is None) == (row.native_size is None):
        raise ConfigError(f"{where} needs either 'native_size' or 'checkpoints', which has a row for each size")
    if row.checkpoints is not None and (row.model or row.weights or row.revision):
        raise ConfigError(f"{where} has 'checkpoints'; 'model', 'weights' and 'revision' belong into them")
    checkpoints = tuple(
        Checkpoint(size, one.model, _locate(one.weights, path), one.revision)
        for size, one in (row.checkpoints or {row.native_size or 1: row}).items()
    )
    first = checkpoints[0]
    return EncoderSpec(
        name=name,
        adapter=row.adapter,
        model=first.model,
        weights=first.weights,
        revision=first.revision,
        licence=row.licence,
        native_size=first.size,
        patch=row.patch,
        width=row.width,
        prefix_tokens=row.prefix_tokens,
        mean=_triple(row.mean),
        std=_triple(row.std),
        layer=row.layer,
        notes=row.notes,
        options=row.options,
        checkpoints=checkpoints if row.checkpoints else (),
    )


def _locate(weights: str | None, path: Path) -> str | None:
    if weights is None:
        return None
    beside = (path.parent / weights).resolve()
    is_path = weights.startswith(("./", "../", "/", "~")) or weights.endswith(".safetensors") or beside.exists()
    return str(Path(weights).expanduser() if weights.startswith("~") else beside) if is_path else weights


def _triple(values: list[float]) -> Triple:
    red, green, blue = values
    return (red, green, blue)
