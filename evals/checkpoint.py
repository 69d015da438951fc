"""A committed checkpoint as lmms-eval's command line asks for it: by arguments that are all text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from evals.adapter import AcsearchModel
from evals.response_cache import Answers
from trainers.errors import EvaluationError
from trainers.model import loading as build

_SHOWN = ("one", "first", "all")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CheckpointModel(AcsearchModel):
    """A checkpoint for lmms-eval's `--model_args checkpoint=FOLDER,dtype=bfloat16,cache=FOLDER,images=first`."""

    def __init__(
        self,
        checkpoint: str = "",
        dtype: str = "float32",
        cache: str | None = None,
        images: str = "one",
        batch_size: int | str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,  # for `--batch_size auto`, which nothing here needs
        **unknown: Any,
    ) -> None:
        """Load the model of a committed checkpoint.

        Args:
            checkpoint: a finetune's result folder.
            dtype: the model's precision.
            cache: folder of the answers of all checkpoints; nothing is kept where it is not given.
            images: what is shown of several images: "one" makes them an error, "first" shows the first, "all" shows
                all, and videos too.
            batch_size: lmms-eval's `--batch_size`; 32 where it is not a number.
            device: lmms-eval's `--device`.
            max_batch_size: lmms-eval's, which is not used.
            unknown: arguments that there are not.

        Raises:
            EvaluationError: an argument is missing, unknown or wrong.
            TrainingError: the folder is no checkpoint, or is broken.
        """
        if unknown:
            raise EvaluationError(
                f"--model_args: no argument {min(unknown)!r}; known: checkpoint, dtype, cache, images"
            )
        if not checkpoint:
            raise EvaluationError("--model_args: no checkpoint; give checkpoint=FOLDER, a finetune's result folder")
        for name, given, known in (("images", images, _SHOWN), ("dtype", dtype, _DTYPES)):
            if given not in known:
                raise EvaluationError(f"--model_args: {name}={given}; known: {', '.join(known)}")
        rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
        place = device or (f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
        model = build.load_model(Path(str(checkpoint)), place, _DTYPES[dtype])
        answers = Answers(Path(cache), model.fingerprint, rank) if cache else None
        size = int(batch_size) if str(batch_size).isdigit() else 32  # type: ignore[arg-type]
        super().__init__(model, batch_size=size, answers=answers, images=images)  # type: ignore[arg-type]
