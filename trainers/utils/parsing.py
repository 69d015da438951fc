"""YAML and JSON from files: whatever in them cannot be read is a ValueError of one line.

YAML is read as people mean it: no key twice, and 1e-3 is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from typing import Any, TextIO

import yaml

_CHUNK = 1 << 22  # characters that are read at a time
_LARGEST = 1 << 28  # characters of an element
_SPACE = re.compile(r"[ \t\n\r]*")


def parse_yaml(text: str) -> Any:
    """Parse a text of one YAML document.

    Raises:
        ValueError: it cannot be read; the message says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not readable as YAML: {' '.join(str(error).split())}") from error


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: it cannot be read, or is nested too deeply, for which json itself has another error.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"not readable as JSON: {error}") from error


def json_elements(file: TextIO) -> Iterator[Any]:
    """Parse a JSON list that may be larger than memory, one element after the other.

    Yields:
        The elements.

    Raises:
        ValueError: the file holds no list, or cannot be read to its end.
    """
    decode = json.JSONDecoder().raw_decode
    text, place = file.read(_CHUNK).lstrip(), 1
    if not text.startswith("["):
        raise ValueError("not a JSON list")
    empty, separator = True, ""
    while separator != "]":
        try:
            place = _after_space(text, place)
            if empty and text[place : place + 1] == "]":
                separator, end = "]", place
            else:
                element, end = decode(text, place)
                end = _after_space(text, end)
                separator = text[end : end + 1]
            problem = json.JSONDecodeError("Expecting ',' or ']'", text, end)
        except json.JSONDecodeError as error:
            separator, problem = "", error
        except RecursionError as error:
            raise ValueError(f"not readable as JSON: {error}") from error
        if separator in (",", "]"):
            if end > place:
                yield element
            empty, place = False, end + 1
        elif len(text) - place > _LARGEST or not (more := file.read(max(_CHUNK, len(text) - place))):
            raise problem  # else the element may go on in the next chunk
        else:
            text, place, separator = text[place:] + more, 0, ""
    if (text[place:] + file.read(_CHUNK)).strip():
        raise ValueError("not readable as JSON: it goes on behind its list")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # no space is space too
    return found.end()


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML's own constructors raise whatever they run into: a date of 2024-13-01, `!!float ''`, `!!bool x`."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: {node.value!r:.80} is no {kind}: {error}") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """YAML lets the second of two equal keys win silently; here it is an error."""
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.YAMLError(f"key {key!r} is given twice (line {key_node.start_mark.line + 1})")
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 for a string, and only 1.0e-3 for a number; here both are numbers
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
