"""Mutation testing of the pure modules; `make mutants` takes a sample of a hundred.

PYTHONPATH=tests python -m mutants --count 300 --seed 1
PYTHONPATH=tests python -m mutants --count all --only acsearch/law/bayes.py

The working tree is copied to build/mutants, changed there, and each mutant meets the quick tests of the folder that
mirrors its module, in a process of its own that is forked from this one, which has the large libraries loaded already.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import cache_from_source
from pathlib import Path

from mutants.sample import Mutant, sample
from support import ROOT

FOLDER = ROOT / "build" / "mutants"
TREE = FOLDER / "tree"
SCORES = ("tests/acsearch/scores",)
DATA = ("tests/trainers/data",)
MODULES = {  # module, or the folder of several: patterns of its tests
    "acsearch/law": ("tests/acsearch/law",),
    "acsearch/policies": ("tests/acsearch/policies",),
    "acsearch/scores/alignment.py": SCORES,
    "acsearch/scores/matching.py": SCORES,
    "acsearch/scores/pck.py": SCORES,
    "acsearch/study/attempts.py": ("tests/acsearch/study/test_attempts*.py",),
    "trainers/data/sampler.py": DATA,
    "trainers/data/templates.py": DATA,
    "trainers/representation.py": ("tests/trainers/test_representation*.py",),
}
LIBRARIES = (  # loaded before the tests are, so that not every mutant loads them; nothing of this repository
    *("numpy", "scipy.stats", "sklearn.linear_model", "joblib", "pandas", "optuna.testing.pytest_samplers"),
    *("torch", "transformers", "PIL.Image", "hypothesis", "pytest", "mlflow", "sqlalchemy", "rich.console", "typer"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--count", default="100", help="mutants in all, or 'all'")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", help="a module, or how its path begins")
    asked = parser.parse_args()
    copy_tree()
    tests = {
        str(path.relative_to(TREE)): chosen
        for name, chosen in MODULES.items()
        for path in (sorted((TREE / name).glob("*.py")) if (TREE / name).is_dir() else [TREE / name])
        if path.name != "__init__.py" and str(path.relative_to(TREE)).startswith(asked.only)
    }
    sources = {module: (TREE / module).read_text() for module in tests}
    chosen = sample(sources, None if asked.count == "all" else int(asked.count), asked.seed)
    print(f"{len(chosen)} mutants of {len(sources)} modules, seed {asked.seed}", flush=True)
    for name in LIBRARIES:
        importlib.import_module(name)
    limits = {}
    for paths in dict.fromkeys(tests[one.module] for one in chosen):
        began = time.monotonic()
        if run_tests(paths, 3600) != 0:
            sys.exit(f"the tests of {', '.join(paths)} fail without a mutant; see {FOLDER / 'tests.log'}")
        limits[paths] = 30 + 5 * (time.monotonic() - began)
        print(f"{', '.join(paths)}: {time.monotonic() - began:.0f} s without a mutant", flush=True)
    survived = []
    for place, one in enumerate(chosen, 1):
        write(one.module, one.code)
        ended = run_tests(tests[one.module], limits[tests[one.module]])
        write(one.module, sources[one.module])
        if ended == 0:
            survived.append(one)
        outcome = "SURVIVED" if ended == 0 else "killed" if ended is not None else "killed: too slow"
        print(f"{place:4} {one.module}:{one.position[0]} {one.operator} {outcome}", flush=True)
    print(report(chosen, survived, sources))
    return 0


def copy_tree() -> None:
    """A fresh copy of what git tracks or would track."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, TREE / name)


def write(module: str, code: str) -> None:
    """Change a module of the copy. A compiled one of the same second and size would be taken for it."""
    (TREE / module).write_text(code)
    Path(cache_from_source(str(TREE / module))).unlink(missing_ok=True)


def run_tests(paths: tuple[str, ...], limit: float) -> int | None:
    """Exit status of pytest on the tree as it stands, 0 where all tests pass; None where it took too long."""
    child = os.fork()
    if not child:
        _run_pytest(paths)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run_pytest(paths: tuple[str, ...]) -> None:
    """In the child: never returns."""
    code = 3
    try:
        os.setsid()  # so that what tests start can be ended with it
        log = os.open(FOLDER / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.chdir(TREE)
        os.environ["PYTHONPATH"] = str(TREE)
        sys.path[:] = [str(TREE), *(one for one in sys.path if Path(one or ".").resolve() != ROOT / "tests")]
        for name in [name for name in sys.modules if name.split(".")[0] in ("support", "mutants")]:
            del sys.modules[name]
        import pytest

        found = [str(one) for path in paths for one in sorted(TREE.glob(path))]
        code = int(pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not slow and not services", *found]))
    finally:
        os._exit(code)


def report(chosen: list[Mutant], survived: list[Mutant], sources: dict[str, str]) -> str:
    """The table, and how each survivor differs from its module."""
    lines = ["", "| module | mutants | killed | survived |", "|---|---:|---:|---:|"]
    for module in [*sources, "all"]:
        made, left = (sum(module in (one.module, "all") for one in some) for some in (chosen, survived))
        lines.append(f"| {module} | {made} | {made - left} | {left} |")
    for one in survived:
        lines += ["", f"{one.module}:{one.position[0]} {one.operator}"]
        diff = difflib.unified_diff(sources[one.module].splitlines(), one.code.splitlines(), n=0, lineterm="")
        lines += [line for line in diff if not line.startswith(("---", "+++", "@@"))]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
