"""Candidates of every framing and joining, scored, planned and finetuned as those of one square."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acsearch.config.study_file import StudyConfig, load_study
from acsearch.config.training import TrainingConfig
from acsearch.runners.plan import plan
from acsearch.runners.training import TrainingRunner
from acsearch.runners.work_folder import WorkFolder
from support import tiny

CANDIDATES = ["clip@32", "clip@32|anyres|linear", "clip@32|native", "clip@32+siglip@32|append", "clip@32|squash"]


def config(folder: Path, candidates: list[str], **changes: str) -> StudyConfig:
    text = tiny.STUDY.replace("[clip@32, siglip@32, clip@32+siglip@32]", json.dumps(candidates))
    for key, value in changes.items():
        text = text.replace("  llm: llm\n", f"  llm: llm\n  {key}: {value}\n")
    (folder / "study.yaml").write_text(text)
    return load_study(str(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("designs")
    tiny.llm(made / "llm")
    tiny.encoders(made)
    return made


def training(folder: Path, candidates: list[str], **changes: str) -> TrainingConfig:
    found = config(folder, candidates, **changes).file.training
    assert found is not None
    return found


def test_names_leave_out_the_framing_of_the_study(folder: Path) -> None:
    names = ["clip@32", "clip@32|letterbox", "clip@32|native|linear"]
    found = training(folder, names, resize="anyres")
    assert found.names == ("clip@32", "clip@32|letterbox", "clip@32|native|linear")
    assert [str(one.framing) for one in found.representations] == ["anyres", "letterbox", "native"]


def test_a_square_is_the_same_job_wherever_it_is_said(folder: Path, tmp_path: Path) -> None:
    """As a word of the name, or as `resize` of the study, as it always was."""
    jobs = []
    for name, changes in (("clip@32|squash", {}), ("clip@32", {"resize": "squash"})):
        work = WorkFolder(training(folder, [name, "siglip@32"], **changes), folder, tmp_path)
        jobs.append(work.align_job(work.training.representations[0]))
    assert jobs[0].digest == jobs[1].digest
    assert (jobs[0].parts.representation, jobs[0].parts.resize) == ("clip@32|pool@2", "squash")
    work = WorkFolder(training(folder, CANDIDATES), folder, tmp_path)
    tiled = work.align_job(work.training.representations[1])
    assert (tiled.parts.representation, tiled.parts.resize) == ("clip@32|anyres|linear", "letterbox")


def test_the_plan_counts_what_each_design_sees(folder: Path) -> None:
    """Of an image of 640 x 480 pixels."""
    found = {one.representation: one for one in plan(config(folder, CANDIDATES), 2).candidates}
    assert {name: one.tokens for name, one in found.items()} == {
        "clip@32": 4,
        "clip@32|anyres|linear": 16 + 6 * 9,  # 2 x 2 tiles, of whose 8 rows 6 are the image's, each with a newline
        "clip@32|native": 4,
        "clip@32+siglip@32|append": 8,
        "clip@32|squash": 4,
    }
    assert found["clip@32|anyres|linear"].align.flops > 3 * found["clip@32"].align.flops


class Quiet:
    def report(self, text: str) -> None:
        pass

    def heartbeat(self) -> None:
        pass


@pytest.mark.slow
def test_scores_and_finetunes(folder: Path, tmp_path: Path) -> None:
    runner = TrainingRunner(config(folder, CANDIDATES), tmp_path)
    scores = [runner.score(candidate, Quiet()) for candidate in range(len(CANDIDATES))]
    assert all(one.alignment[0] < 0 <= (one.correspondence or 0) <= 100 for one in scores)
    assert len({one.alignment for one in scores}) == len(CANDIDATES)
    c = [one.correspondence for one in scores]
    assert c[1] == c[2] == c[4] != c[0]  # of the whole image, squashed
    for candidate in (1, 2, 3):
        done = runner.finetune(candidate, candidate, None, Quiet())
        assert set(done.scores) == {"micro_attribute", "micro_existence"}
