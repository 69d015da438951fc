"""What a study is run by: looked up in its table, or trained."""

from __future__ import annotations

from pathlib import Path

from acsearch.config.study_file import Source, load_source, load_study
from acsearch.config.training import TrainingConfig
from acsearch.runners.base import Artifacts, Runner
from acsearch.runners.recorded import NoArtifacts, RecordedRunner


def make_runner(source: Source, work: Path, store: str | None = None) -> Runner:
    """What scores and finetunes the candidates of a study.

    Args:
        source: the study's.
        work: folder for what training makes.
        store: fsspec URL of the work store that shares the folder among machines; None for none.

    Raises:
        StoreError: the work store cannot be used.
    """
    if source.study is None:
        return RecordedRunner(load_source(source))
    from acsearch.runners.training import TrainingRunner  # here, because only studies that train need torch

    return TrainingRunner(load_study(source.study), work, store)


def make_artifacts(source: Source, work: Path, store: str | None = None) -> Artifacts:
    """What is left of the candidates of a study. Arguments and errors are those of `make_runner`."""
    if source.study is None:
        return NoArtifacts()
    from acsearch.runners.artifacts import TrainingArtifacts

    return TrainingArtifacts(load_study(source.study), work, store)


def training_of(source: Source) -> TrainingConfig | None:
    """The `training` part of the study file; None for a study whose finetunes are looked up."""
    return None if source.study is None else load_study(source.study).file.training
