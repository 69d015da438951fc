"""What a study's candidates are made of, by what it depends on."""

from __future__ import annotations

from pathlib import Path

from acsearch.config.study_file import load_study
from acsearch.runners.assets import StudyAssets
from support import tiny


def test_the_language_model_is_known_by_its_files(tmp_path: Path) -> None:
    """A folder in its folder, such as the one that a download leaves, is none of them: nothing in it is ever loaded."""
    (tmp_path / "study.yaml").write_text(tiny.STUDY)
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text("{}")
    training = load_study(str(tmp_path)).file.training
    assert training is not None

    def identity() -> str:
        return StudyAssets(training, tmp_path, tmp_path / "work").llm_identity

    first = identity()
    (tmp_path / "llm" / ".cache").mkdir()
    (tmp_path / "llm" / ".cache" / "lock").touch()
    assert identity() == first
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"weights")
    assert identity() != first
