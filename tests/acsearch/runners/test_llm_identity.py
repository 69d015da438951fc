"""A language model of the hub is known by its commit: results of two revisions are never taken for each other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acsearch.config.study_file import StudyConfig, load_study
from acsearch.runners.work_folder import WorkFolder
from support import tiny
from support.hub import CachedHub
from trainers.representation import parse
from trainers.training.train import RESULT
from trainers.utils.digest import digest, digest_of

CANDIDATE = parse("clip@32|pool@2")


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    folder = tmp_path / "study"
    folder.mkdir()
    tiny.encoders(folder)
    (folder / "study.yaml").write_text(tiny.STUDY.replace("llm: llm", "llm: someone/tiny"))
    return load_study(str(folder))


def publish(hub: CachedHub, folder: Path, **changes: Any) -> str:
    llm = tiny.llm(folder, **changes)
    return hub.add("someone/tiny", {path.name: path.read_bytes() for path in llm.iterdir()})


def test_the_jobs_of_two_revisions_differ_and_name_the_commit(
    hub: CachedHub, config: StudyConfig, tmp_path: Path
) -> None:
    first = publish(hub, tmp_path / "first")
    job = WorkFolder.of(config, tmp_path / "work").finetune_job(CANDIDATE)
    assert job.parts.llm == f"someone/tiny@{first}"
    assert WorkFolder.of(config, tmp_path / "work").finetune_job(CANDIDATE).digest == job.digest
    second = publish(hub, tmp_path / "second", rms_norm_eps=1e-3)
    other = WorkFolder.of(config, tmp_path / "work").finetune_job(CANDIDATE)
    assert other.parts.llm == f"someone/tiny@{second}"
    assert other.digest != job.digest


def test_what_was_trained_before_commits_counted_stays_trained(
    hub: CachedHub, config: StudyConfig, tmp_path: Path
) -> None:
    """The identity was the id alone then; a stage without a result is begun anew."""
    publish(hub, tmp_path / "first")
    folder = WorkFolder.of(config, tmp_path / "work")
    now = folder.align_job(CANDIDATE)
    content = [folder.assets.shape(CANDIDATE).fingerprint, "someone/tiny", digest_of(now.data)]
    earlier = now.model_copy(update={"identity": digest(content)})
    folder.stage(earlier).mkdir(parents=True)
    assert folder.align_job(CANDIDATE).digest == now.digest
    (folder.stage(earlier) / RESULT).mkdir()
    assert folder.align_job(CANDIDATE).digest == earlier.digest != now.digest
    assert folder.finetune_job(CANDIDATE).start == folder.stage(earlier) / RESULT
