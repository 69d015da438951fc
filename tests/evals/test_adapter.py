"""The model as lmms-eval sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from support.evaluation import Oracle, run, samples


def test_a_module_survives_the_harness(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Network(torch.nn.Linear):
        fingerprint, device = "network", torch.device("cpu")

        def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            return ["yes" if self.weight is not None else "" for _ in prompts]

    model = Network(2, 2)
    run(model, tmp_path / "a", questions)
    assert run(model, tmp_path / "b", questions).scores["micro_count"].points == pytest.approx(200 / 7)


def test_an_untrained_models_marks_are_stripped(tmp_path: Path, questions: dict[str, Path]) -> None:
    run(Oracle(["\x00y\x0be\ud800s\x1f"] * 7), tmp_path / "out", questions)
    assert samples(tmp_path / "out")[0]["answer"] == "yes"
