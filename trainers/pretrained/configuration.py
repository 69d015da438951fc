"""What the configuration of pretrained weights may ask for: no code, no other files, nothing absurd.

Libraries do what a configuration says, before they look at the weights. So it is read here first. A key that would run
code, fetch something or change the weights is refused by its name, wherever it stands, and so is a number that no real
model comes near, which would have a library build for minutes or fill the memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trainers.errors import WeightsError
from trainers.utils.parsing import parse_json

LARGEST = 2**22  # bytes of a config.json; one that names 21,000 classes twice has 2**21
_DEEPEST = 20

# Keys that are refused where they hold anything, and what to do about them
_CODE = "is for code of a repository, which acsearch never runs; if transformers knows the model by itself, remove it"
_QUANTIZED = "is for quantized weights, which acsearch does not load; save the model in 16 or 32 bits"
_ELSEWHERE = "has files taken from elsewhere, which nobody hashed; remove it"
REFUSED = {
    "auto_map": _CODE,
    "custom_pipelines": _CODE,
    "kernel_config": _CODE,
    "use_kernels": _CODE,
    "quantization_config": _QUANTIZED,
    "compression_config": _QUANTIZED,
    "transformers_weights": _ELSEWHERE,
    "configuration_files": _ELSEWHERE,
    "gguf_file": _ELSEWHERE,
    "init_inputs": _ELSEWHERE,
    "use_pretrained_backbone": _ELSEWHERE,
    "fusion_config": "has layers of transformers replaced, which acsearch does not do; remove it",
    "distributed_config": "is for weights spread over machines; remove it",
}
_IMPLEMENTATIONS = (None, "eager", "sdpa")  # of attention; any other name may be a kernel from the hub

# Between what the integers of a key must lie, by what its name is like; the first pattern that fits counts
_BOUNDS = (
    (re.compile("theta|base$"), -math.inf, math.inf),  # of rotary positions, which are no sizes
    (re.compile("^(patch|image|hidden|vocab)_size$"), 1, 2**24),
    (re.compile("^(num_hidden_layers|depth)$"), 0, 256),
    (re.compile("(layers?|depths?|blocks|stages)$"), -256, 256),  # also which ones, counted from the end
    (re.compile("experts"), -(2**15), 2**15),
    (re.compile("(labels|classes)$"), 0, 1_000_000),
    (re.compile(""), -(2**24), 2**24),
)


def parse_configuration(content: bytes, *, sizes: bool = True) -> dict[str, Any]:
    """Read a configuration in JSON.

    Args:
        content: of the file.
        sizes: whether its numbers are sizes; those of a tokenizer are not, and may be 10^30.

    Raises:
        WeightsError: it is no JSON object of a configuration's size, or asks for what is refused; the message says why.
    """
    if len(content) > LARGEST:
        raise WeightsError(f"it has more than {LARGEST} bytes")
    try:
        found = parse_json(content.decode())
    except ValueError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(found, dict):
        raise WeightsError("it is not a JSON object")
    check_configuration(found, sizes=sizes)
    return found


def check_configuration(configuration: Mapping[str, Any], *, sizes: bool = True) -> None:
    """Check what a configuration asks for.

    Args:
        configuration: its keys and values.
        sizes: as in `parse_configuration`.

    Raises:
        WeightsError: it asks for what is refused; the message names the key.
    """
    for key, value in _entries(dict(configuration)):
        if key in REFUSED and value:
            raise WeightsError(f"{key!r} {REFUSED[key]}")
        if key.endswith(("_implementation", "_implementation_internal")) and value not in _IMPLEMENTATIONS:
            raise WeightsError(f"{key!r} is {value!r:.80}; acsearch takes eager or sdpa, and no kernels of others")
        if sizes and isinstance(value, int) and not isinstance(value, bool):
            least, most = next(bounds for pattern, *bounds in _BOUNDS if pattern.search(key))
            if not least <= value <= most:
                raise WeightsError(f"{key!r} is {value!r:.40}; it must be from {least} to {most}")


def make_config(described: dict[str, Any]) -> Any:
    """The configuration of transformers that a config.json describes, which `parse_configuration` read.

    Raises:
        OSError, ValueError: transformers does not know the model, or cannot read a value.
    """
    from transformers import AutoConfig

    with TemporaryDirectory(prefix="acsearch-") as folder:
        Path(folder, "config.json").write_text(json.dumps(described))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    config.name_or_path = ""
    return config


def _entries(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value within, by its key; those of a list by the list's."""
    if depth > _DEEPEST:
        raise WeightsError("it is nested too deeply")
    yield key, value
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = ((key, one) for one in value)
    for name, one in inner:
        yield from _entries(one, str(name), depth + 1)
