"""acsearch's checkpoints under the name `acsearch` for lmms-eval's command line.

    acsearch eval --model acsearch --model_args checkpoint=FOLDER --tasks mme

lmms-eval finds `manifest` through the entry point group `lmms_eval.models`, while it is being imported itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import evals  # noqa: F401  the torchvision guard, where lmms-eval is imported first

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

NAME = "acsearch"


def manifest() -> ModelManifest:
    """What lmms-eval must know about the model `acsearch`; its class is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path="evals.checkpoint.CheckpointModel")
