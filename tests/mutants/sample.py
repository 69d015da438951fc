"""Which mutants there are, and a seeded sample of them. The changes themselves are cosmic-ray's."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

_BITS = {"LShift", "RShift", "BitOr", "BitAnd", "BitXor", "Invert"}
_IDENTITY = {"Is", "IsNot"}
_NEED_ARGUMENTS = {"core/VariableReplacer", "core/VariableInserter"}

Position = tuple[int, int]  # line and column


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: path in the repository.
        position: where the change is.
        operator: name of cosmic-ray's operator.
        code: the changed module.
    """

    module: str
    position: Position
    operator: str
    code: str


def sample(sources: dict[str, str], count: int | None, seed: int) -> list[Mutant]:
    """Mutants of several modules, each with its share by the number of places that can be changed.

    Places are drawn first and then one change of each, since some places have ten changes and others one.

    Args:
        sources: source text by module.
        count: how many, at least one of each module; None takes every mutant.
        seed: the same seed gives the same sample of the same sources.
    """
    places = {module: _changes(source) for module, source in sources.items()}
    total = sum(map(len, places.values()))
    chosen = []
    for module, source in sources.items():
        rng = random.Random(f"{seed} {module}")
        share = None if count is None else max(1, round(count * len(places[module]) / total))
        chosen += list(islice(_mutants(module, source, places[module], rng, each=count is None), share))
    return chosen


def _changes(source: str) -> dict[Position, list[tuple[str, int]]]:
    """By place, the operators that apply there, and which of an operator's occurrences it is."""
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[Position, list[tuple[str, int]]] = {}
    for name in sorted(set(cosmic_ray.plugins.operator_names()) - _NEED_ARGUMENTS):
        if not _pointless(name):
            operator = cosmic_ray.plugins.get_operator(name)()
            positions = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            for occurrence, position in enumerate(positions):
                found.setdefault(position, []).append((name, occurrence))
    return found


def _mutants(
    module: str, source: str, places: dict[Position, list[tuple[str, int]]], rng: random.Random, *, each: bool
) -> Iterator[Mutant]:
    """One mutant of each place in random order, or each mutant; none that cannot run or runs as the original."""
    original = _executed(source)
    for position in rng.sample(sorted(places), len(places)):
        for name, occurrence in rng.sample(places[position], len(places[position])):
            code = mutate_code(source, cosmic_ray.plugins.get_operator(name)(), occurrence)
            if _executed(code) not in (original, None):
                yield Mutant(module, position, name.removeprefix("core/"), code)
                if not each:
                    break


def _pointless(name: str) -> bool:
    """Numbers are not shifted or combined bit by bit, and `is None` does not become `< None`."""
    words = name.split("_")
    if len(words) != 3:
        return False
    _, before, after = words
    return (after in _BITS and before not in _BITS) or (before in _IDENTITY) != (after in _IDENTITY)


def _executed(source: str) -> str | None:
    """The module's syntax tree without annotations and docstrings, which do not run; None where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return ast.dump(tree)
