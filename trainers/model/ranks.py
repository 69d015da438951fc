"""A whole model on each rank of a task, for what is measured on it."""

from __future__ import annotations

import os
from pathlib import Path

from trainers.checkpoints.commit import MANIFEST
from trainers.checkpoints.work_store import Store
from trainers.model.loading import load_model
from trainers.model.multimodal import MultimodalModel
from trainers.model.precision import Precision, dtype_of
from trainers.ranks.group import Group, rank_device


def load_on_rank(result: Path, precision: Precision, store: Store, group: Group) -> MultimodalModel:
    """Load the model of a stage's committed result on this rank's device. All ranks call this together.

    The first rank of each machine brings the result there if it has to, and compares its files with their digests.

    Args:
        result: a stage's.
        precision: in which the model computes.
        store: the work store.
        group: the ranks.

    Raises:
        TrainingError: the folder is no result, or is broken.
    """
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    if first_here and not (result / MANIFEST).exists():
        store.result(result.parent)
    group.wait()
    return load_model(result, rank_device(), dtype_of(precision), check=first_here)
