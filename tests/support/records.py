"""What every dataclass of a pure module promises."""

from __future__ import annotations

import dataclasses
from types import ModuleType

_ARRAYS = ("Array", "Index", "Tensor", "NDArray", "ndarray", "Flags", "Features", "Posterior")


def cannot_be_changed(module: ModuleType, *exceptions: str) -> None:
    """Its dataclasses are frozen, and those that hold arrays are compared by identity, since arrays have no one truth.

    Args:
        module: whose own dataclasses are looked at; it has some.
        exceptions: names of those that may change.
    """
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    found = [one for one in own if dataclasses.is_dataclass(one)]
    assert found
    for one in found:
        assert one.__dataclass_params__.frozen == (one.__name__ not in exceptions), one
        held = [str(field.type) for field in dataclasses.fields(one)]
        if any(name in kind for name in _ARRAYS for kind in held if "Callable" not in kind):
            assert one.__eq__ is object.__eq__, one
        else:
            assert one.__eq__ is not object.__eq__, one
