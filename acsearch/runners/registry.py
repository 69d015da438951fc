"""Which runner a study has."""

from __future__ import annotations

from pathlib import Path

from acsearch.config.study_file import Source, load_source, load_study
from acsearch.runners.base import Finetunes
from acsearch.runners.recorded import RecordedFinetunes


def make_finetunes(source: Source, work: Path, store: str | None = None) -> Finetunes:
    """What a study of this source searches. work: folder for what training makes.  store: URL that shares it."""
    if source.study is None:
        return RecordedFinetunes(load_source(source))
    from acsearch.runners.training import Pipeline  # here, because only studies that train need torch

    return Pipeline(load_study(source.study), work, store)
