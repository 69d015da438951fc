"""The sample of mutants: the same for a seed, without changes that do nothing."""

from __future__ import annotations

import ast

from mutants.sample import sample

SOURCE = '''"""Doc: 1 + 1."""

from __future__ import annotations


def bound(mean: float | None, sd: float, *, times: int = 3) -> float | None:
    """Mean plus 2 * sd."""
    if mean is None:
        return None
    return mean + times * sd
'''


def test_changes_run_and_are_no_annotation_and_no_docstring() -> None:
    found = sample({"one.py": SOURCE}, None, 0)
    bodies = {ast.unparse(ast.parse(one.code)) for one in found}
    assert len(bodies) == len(found)
    assert any("mean - times * sd" in one for one in bodies)
    assert any("times: int=2" in one for one in bodies)
    assert any("mean is not None" in one for one in bodies)
    assert not any("<<" in one or "mean < None" in one for one in bodies)
    assert all("mean: float | None" in one and "Mean plus 2 * sd." in one and "1 + 1" in one for one in bodies)


def test_a_sample_is_one_change_of_each_drawn_place_by_its_seed() -> None:
    sources = {"one.py": SOURCE, "two.py": SOURCE.replace("bound", "other")}
    chosen = sample(sources, 6, 1)
    assert chosen == sample(sources, 6, 1) != sample(sources, 6, 2)
    assert {one.module for one in chosen} == {"one.py", "two.py"}
    assert len({(one.module, one.position) for one in chosen}) == len(chosen) == 6
    every = sample(sources, None, 0)
    assert all(one in every for one in chosen)
