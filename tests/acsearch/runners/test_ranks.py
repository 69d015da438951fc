"""A, C and evaluation by ranks: what one process measures, while the controller holds no model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acsearch.config.study_file import StudyConfig, load_study, update
from acsearch.runners.training import TrainingRunner
from support import ROOT, tiny
from support.fork_server import Forks
from support.homes import Quiet
from trainers.ranks import launch as launching

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

SIZES = {"captions": 24, "heldout": 14, "instruct": 24, "per_benchmark": 12, "pairs": 40, "pair_images": 72}
OTHERS = {
    "alignment": {"definition": "A_cos", "data": "captions_heldout.parquet", "samples": 8, "references": ["siglip@32"]},
    "correspondence": {"definition": "C_compat", "pairs": "pairs"},
}

CONTROLLER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from acsearch.config.study_file import load_study
from acsearch.runners.training import TrainingRunner
from trainers.encoders import registry
from trainers.model.multimodal import MultimodalModel
from trainers.ranks import launch
def refuse(*_, **__):
    raise AssertionError("the controller holds a model")
MultimodalModel.__init__ = registry.check_finite = refuse
launch.POLL_SECONDS, launch.sys = 0.02, SimpleNamespace(executable=sys.argv[1])
class Progress:
    said = []
    def report(self, text): self.said.append(text)
    def heartbeat(self): pass
runner = TrainingRunner(load_study(sys.argv[2]), Path(sys.argv[3]))
scores = runner.score(2, Progress())
observation = runner.finetune(2, 0, None, Progress())
assert "lmms_eval" not in sys.modules
import torch
assert not torch.cuda.is_initialized()
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss would count who started this
print(json.dumps([scores.alignment, scores.correspondence, observation.scores, observation.errors, Progress.said,
                  int(peak) / 1e6]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    (folder / "study.yaml").write_text(tiny.STUDY)
    return folder


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.02)
    with tiny.one_thread():
        yield


def changed(study: Path, **changes: Any) -> StudyConfig:
    config = load_study(str(study))
    assert config.file.training is not None
    training = type(config.file.training).model_validate(config.file.training.model_dump() | changes)
    return replace(config, file=update(config.file, training=training))


def kept(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "scores").iterdir()}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("changes", [{}, OTHERS], ids=["A_ll and C", "A_cos and C_compat"])
def test_two_ranks_measure_what_one_process_measures(study: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """To the bit, with five batches of pairs' images and four of captions, though a rank has more of them."""
    few = {"prepare": {"call": "studies.micro.data:prepare", "sizes": SIZES}}
    one = TrainingRunner(changed(study, **few, **changes), tmp_path).score(2, Quiet())
    files = kept(tmp_path)
    assert len(files) == 2
    shutil.rmtree(tmp_path / "scores")
    shutil.rmtree(tmp_path / "pairs", ignore_errors=True)
    two = TrainingRunner(changed(study, **few, **changes, processes=2), tmp_path).score(2, Quiet())
    assert kept(tmp_path) == files
    assert (two.alignment, two.correspondence, two.details) == (one.alignment, one.correspondence, one.details)
    logs = sorted(path.name for path in tmp_path.glob("ranks/*/*.log"))
    assert logs == ["alignment.log", "correspondence.log"]  # by ranks they were


def test_a_controller_of_ranks_holds_no_model(forked: Forks, study: Path, tmp_path: Path) -> None:
    """What its ranks measured is what one process measures on the same models."""
    two = shutil.copytree(study, tmp_path / "two")
    (two / "study.yaml").write_text(f"{tiny.STUDY}  processes: 2\n")
    work = tmp_path / "work"
    command = [sys.executable, "-c", CONTROLLER, forked.python, str(two), str(work)]
    environment = forked.environment | {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alignment, correspondence, points, errors, said, gigabytes = json.loads(done.stdout)
    assert gigabytes < 1
    for what in ("connector, step", "correspondence", "alignment", "finetune, step", "evaluating micro_attribute"):
        assert any(text.startswith(what) for text in said), what
    for path in [work / "scores", work / "pairs", *work.glob("stages/*/eval")]:
        shutil.rmtree(path)
    here = TrainingRunner(load_study(str(study)), work)
    scores, observation = here.score(2, Quiet()), here.finetune(2, 0, None, Quiet())
    assert (list(scores.alignment), scores.correspondence) == (alignment, correspondence)
    assert (observation.scores, observation.errors) == (points, errors)
