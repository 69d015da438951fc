"""The README is true: its files are written, its commands run in their order, and their output is what it shows."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from support import ROOT
from trainers.connectors import make_connector
from trainers.contracts import Features, Layout, MapShape, Seen
from trainers.representation import PIECES, Piece, parse

README = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"`(mine/[\w.]+)`[^`]*\n\n```\w+\n(.*?)```", README, re.DOTALL))
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
# each command with what it prints, up to the next
COMMANDS = [tuple(c.split("\n", 1)) for block in BLOCKS for c in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_readme_has_what_is_tested_here() -> None:
    assert set(FILES) == {"mine/table.csv", "mine/table.yaml", "mine/study.yaml"}
    assert len(COMMANDS) >= 12


SLOW = ("acsearch replay", "acsearch study plan")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(*each, id=each[0], marks=[pytest.mark.slow] if each[0].startswith(SLOW) else [])
        for each in COMMANDS
    ],
)
def test_commands(folder: Path, command: str, shown: str) -> None:
    hidden = ("ACSEARCH_HOME", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "118"}
    environment |= {"OPENBLAS_CORETYPE": "Haswell"}  # the last digit of sums differs between kinds of processors
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode != 0) == shown.startswith("error: "), done.stdout
    said = re.sub(r"(?m)^  .* \(for [\d.]+ \w+\)\n", "", done.stdout)  # what a slow machine says every 30 seconds
    same = doctest.OutputChecker().check_output(shown, said, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert same, done.stdout


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_make_and_ci_run_what_the_readme_says() -> None:
    make = subprocess.run(["make", "-n", "study", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "acsearch study start --budget 4" in make
    assert {"make test", "make test-slow", "make lint &"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


def test_code_of_the_contributing_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's code, put into files and the registry as it says, is a policy that replays, and a connector."""
    from acsearch.cli import main as cli
    from acsearch.policies import registry as policies

    page = (ROOT / "CONTRIBUTING.md").read_text()
    scope: dict[str, object] = {}
    for code in re.findall(r'```python\n(""".*?)```', page, re.DOTALL):
        exec(code, scope)
    module = types.ModuleType("trainers.connectors.norm_linear")
    module.NormLinear = scope["NormLinear"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = re.search(r'"normlinear": (Piece\(.*?\))}', page)
    assert entry is not None
    monkeypatch.setitem(PIECES, "normlinear", eval(entry.group(1), {"Piece": Piece}))
    assert str(parse("clip-l14@336|normlinear")) == "clip-l14@336|normlinear"
    connector = make_connector(parse("clip-l14@336|normlinear").connector, [MapShape((4, 4), 24)], 32, seed=0)
    layout = Layout(10, 10)
    seen = Seen((layout, layout), torch.zeros(2, dtype=torch.long))
    tokens = connector((Features.of_maps(torch.ones(2, 4, 4, 24)),), seen)
    assert tokens.counts == (connector.count(layout),) * 2 == (16, 16)
    assert tokens.values.shape == (32, 32)
    registered = {
        "top-c": policies._rule(scope["correspondence"]),  # type: ignore[arg-type]
        "two-sigma": policies._law(scope["two_sigma"]),  # type: ignore[arg-type]
    }
    monkeypatch.setattr(policies, "POLICIES", policies.POLICIES | registered)
    for name in registered:
        arguments = ["replay", "law_v1", "--policy", name, "--repeats", "2", "--subset", "8", "--jobs", "1", "--json"]
        monkeypatch.setattr(sys, "argv", ["acsearch", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        assert f'"policy": "{name}"' in capsys.readouterr().out
