"""What works, damaged at random: the strategies, and the one property that everything read is put to.

Damage is drawn by Hypothesis, the same on every run; FUZZ_FACTOR=10 draws ten times as much, new each time.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainers.errors import AcsearchError

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
_LONGEST = 1100  # characters of an error that a person may still be shown

Draw = Callable[[st.SearchStrategy[Any]], Any]
Made = TypeVar("Made")


def cases(count: int, strategy: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on that many damaged things, its argument `damaged`; fewer executed cases than promised fail it.

    The test is there twice: `[full]`, marked slow, draws them all, and `[short]` the first tenth of them, at least 20.
    """
    share = {"short": max(min(count, 20), count // 10), "full": count}

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run(size: str, *fixtures: Any, **named: Any) -> None:
            ran = 0

            @functools.wraps(test)
            def counted(*fixtures: Any, **named: Any) -> None:
                nonlocal ran
                ran += 1
                test(*fixtures, **named)

            settings(
                max_examples=share[size] * FACTOR,
                derandomize=FACTOR == 1,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )(given(damaged=strategy)(counted))(*fixtures, **named)
            assert ran >= share[size], f"only {ran} of {share[size]} cases were executed"

        @functools.wraps(test)
        def sized(*fixtures: Any, size: str, **named: Any) -> None:
            run(size, *fixtures, **named)

        fixtures = [one for one in inspect.signature(test).parameters.values() if one.name != "damaged"]
        asked = inspect.Parameter("size", inspect.Parameter.KEYWORD_ONLY)
        sized.__signature__ = inspect.Signature([*fixtures, asked])  # type: ignore[attr-defined]
        return pytest.mark.parametrize("size", ["short", pytest.param("full", marks=pytest.mark.slow)])(sized)

    return decorate


# -- the property ------------------------------------------------------------------------------------------------------


def accepted(read: Callable[[], Made], folder: Path, names: Iterable[str]) -> Made | None:
    """What `read` makes of a folder's files; None where it refuses them as it should.

    Refusing is an AcsearchError of one short printable line that says one of `names`; any other exception is a bug, and
    so is a file that differs afterwards.
    """
    before = contents(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # an overflow or a division by zero would be silent
            return read()
    except AcsearchError as error:
        assert_helpful(error.line, names)
        return None
    finally:
        assert contents(folder) == before


def assert_helpful(message: str, names: Iterable[str]) -> None:
    assert message
    assert message.isprintable()
    assert len(message) <= _LONGEST
    assert "Traceback" not in message
    assert "object at 0x" not in message
    assert any(name in message for name in names), f"names nothing that was given: {message}"


def laid_out(folder: Path, files: dict[str, bytes]) -> None:
    """These files in the folder and nothing else."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder by its bytes; links and the like by their kind."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISREG(mode) and ".locks" not in name:
            found[name] = path.read_bytes()
        elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            found[name] = stat.filemode(mode)
    return found


# -- damage to bytes ---------------------------------------------------------------------------------------------------


@st.composite
def damaged_bytes(draw: Draw, whole: bytes) -> bytes:
    """Cut short, with bits flipped, parts doubled, removed or zeroed, in another encoding, or of another kind."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "flip", "double", "remove", "zero", "insert", "other"]))
    start = draw(st.integers(0, len(whole)))
    end = min(len(whole), start + draw(st.sampled_from([1, 2, 4, 16, 256, 65536])))
    if kind == "cut":
        return whole[:start]
    if kind == "flip":
        content = bytearray(whole)
        for _ in range(draw(st.integers(1, 4))):
            place = draw(st.integers(0, len(whole) - 1))
            content[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    if kind == "double":
        return whole[:end] + whole[start:]
    if kind == "remove":
        return whole[:start] + whole[end:]
    if kind == "zero":
        return whole[:start] + bytes(end - start) + whole[end:]
    if kind == "insert":
        return whole[:start] + draw(st.binary(min_size=1, max_size=16)) + whole[start:]
    return draw(
        st.sampled_from([b"", b"\x00", b"\xff\xfe" + whole, b"\xef\xbb\xbf" + whole, whole[::-1], b"\n" * 1000])
        | st.binary(max_size=64)
    )


# -- damage to keys and values -----------------------------------------------------------------------------------------

WORDS = ["", " ", "x", "x" * 300, "x" * 5000, "\x00", "\x1b[2J", "☃", "\u202e", "\ud800", "..", "../../etc/passwd"]
WORDS += ["/", "~", "~nobody/x", "nan", "1e400", "null", "C", "mean", "%s{}$HOME", "a\nb", "é" * 200, "9" * 5000]
WORDS += ["a|b@", "0"]
NUMBERS = [0, 1, -1, 2, 3, 10**6, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.5, 1e-3, 1e-30]
NUMBERS += [5e-324, 1e12, 1e30, 1e300, -1e300, 1.7e308, math.nan, math.inf, -math.inf, -0.0]


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def strange() -> st.SearchStrategy[Any]:
    """Values of every type, the extremes first."""
    scalars = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.sampled_from([None, True, False, date(2024, 1, 1)])
    return (
        scalars
        | st.text(max_size=20)
        | st.floats()
        | st.lists(scalars, max_size=3)
        | st.dictionaries(st.sampled_from(["", "x", "name", "gqa"]), scalars, max_size=2)
        | st.sampled_from([[[]], {}, [{}], _nested(60), list(range(2000))])
    )


@st.composite
def damaged_tree(draw: Draw, tree: Any, values: st.SearchStrategy[Any] | None = None) -> Any:
    """Keys and values of nested dicts and lists dropped, doubled, renamed, wrapped, swapped or replaced.

    values: what else may stand in the place of a value.
    """
    tree = copy.deepcopy(tree)
    replacements = (strange() if values is None else strange() | values).map(copy.deepcopy)  # they are damaged in turn
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(tree))
        if not places:
            return draw(replacements)
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace"] * 6 + ["drop", "double", "rename", "wrap", "swap", "scale", "add"]))
        value = parent[key]
        if kind == "drop":
            del parent[key]
        elif kind == "wrap":
            parent[key] = draw(st.sampled_from([[value], {"x": value}, [value, value]]))
        elif kind == "swap":
            other, where = draw(st.sampled_from(places))
            parent[key], other[where] = copy.deepcopy(other[where]), copy.deepcopy(value)
        elif kind == "scale" and isinstance(value, (int, float)):
            parent[key] = value * draw(st.sampled_from([-1, 0, 1000, 10**9, 1e-9, 1e100]))
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["extra", "", "nane", 7, None, True, "é", "x" * 400]))] = draw(replacements)
        elif kind == "rename" and isinstance(parent, dict):
            del parent[key]
            parent[draw(st.sampled_from([str(key)[:-1], str(key) + " ", str(key).upper(), 1, "☃"]))] = value
        elif kind == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(value))
        else:
            parent[key] = draw(replacements)
    return tree


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Every (dict or list, key or index) of a tree, from the outside in."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    for key in keys[:50]:
        yield tree, key
        yield from _places(tree[key])
