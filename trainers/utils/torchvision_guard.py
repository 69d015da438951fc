"""Let torchvision import beside a CPU build of torch.

The torchvision wheels on PyPI are linked against CUDA. Beside a CPU torch their compiled library cannot load, so the
two operators that torchvision registers without a check (`nms` and `qnms`) do not exist, and `import torchvision`
raises; with it fall timm, open_clip, peft, lmms-eval and most of transformers, none of which use these operators here.

The guard waits for the first import of torchvision, tries its library, and only where that fails declares the two
operators. It costs nothing until then (torch is not imported), and does nothing beside a CUDA torch. What stays
unavailable on such a machine is what truly needs the library: `torchvision.ops.nms` and `torchvision.io`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_UNGUARDED_OPERATORS = ("nms", "qnms")
_declared: list[Any] = []  # torch forgets the declarations when the Library object dies


class _Guard:
    """A finder for `sys.meta_path` that finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent / "_C.so")
        return None  # the ordinary finders go on and import it


def _declare_missing_operators(library: Path) -> None:
    import torch

    try:
        torch.ops.load_library(str(library))
    except OSError:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _UNGUARDED_OPERATORS:
            fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(fragment)


def install_guard() -> None:
    """Put the guard in front of the import system, once, unless torchvision is there already."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard())
