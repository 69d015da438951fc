"""Fixtures of the tests of training."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest


@pytest.fixture(scope="session")
def forks() -> Any:
    """Makes processes that have imported everything already, and done nothing else: in a second, not in ten."""
    context = multiprocessing.get_context("forkserver")
    models = [f"transformers.models.{name}.modeling_{name}" for name in ("auto", "clip", "llama", "siglip")]
    context.set_forkserver_preload(["trainers.training.train", "peft", *models])
    return context
