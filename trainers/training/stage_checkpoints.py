"""The checkpoints of a stage that is being trained: committed, taken up again, and its result at the end.

Every process of the stage makes these calls at the same time; the first one writes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import BaseModel
from safetensors.torch import save_file

from trainers.checkpoints import commit
from trainers.checkpoints.work_store import Store
from trainers.errors import TrainingError
from trainers.job import Job
from trainers.model.fsdp import full_tensor, load_optimizer_state, optimizer_state, read_optimizer
from trainers.model.loading import METRICS, MODEL, WEIGHTS, load_weights
from trainers.model.multimodal import MultimodalModel
from trainers.training.metrics_log import MetricsLog

_OPTIMIZER, _STATE = "optimizer.pt", "state.json"


@dataclass
class Progress:
    """What a checkpoint must know besides weights: how far training is, and what it has cost.

    Attributes:
        step: optimizer steps that are done.
        seconds: wall-clock time of these steps.
        tokens: supervised tokens of these steps.
        loss: the smoothed loss per supervised token.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = math.nan


class _State(BaseModel):
    """What a checkpoint's state.json must say."""

    job: str
    progress: Progress

    @classmethod
    def read(cls, folder: Path) -> _State:
        try:
            return cls.model_validate_json((folder / _STATE).read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder}: {_STATE} cannot be used: {error}") from error


@dataclass(frozen=True)
class StageCheckpoints:
    """The checkpoints in a stage's folder and in its work store.

    Attributes:
        job: the stage that is trained.
        folder: the stage's folder.
        accelerator: this process among those that train the stage.
        store: the work store that shares the folder.
        metrics_log: the metrics of each step, which go with every checkpoint.
    """

    job: Job
    folder: Path
    accelerator: Accelerator
    store: Store
    metrics_log: MetricsLog

    @property
    def sharded(self) -> bool:
        """Whether weights and optimizer are spread over the processes."""
        return self.job.stage.shard and self.accelerator.num_processes > 1

    def save(self, model: MultimodalModel, optimizer: Any, progress: Progress) -> None:
        """Commit a checkpoint of this step."""
        self.accelerator.wait_for_everyone()
        weights, inner = _gathered(model.trainable()), optimizer.optimizer
        moments = optimizer_state(model, inner) if self.sharded else inner.state_dict()
        if self.accelerator.is_main_process:
            target = commit.step_folder(self.folder, progress.step)
            with commit.commit_folder(target) as folder:
                save_file(weights, folder / WEIGHTS)
                torch.save(moments, folder / _OPTIMIZER)
                state = {"job": self.job.digest, "progress": vars(progress), "labels": self.job.labels}
                (folder / _STATE).write_text(json.dumps(state, indent=1))
                self._keep_metrics(folder)
            self.store.push(target, commit.KEEP)
            commit.prune(self.folder, commit.KEEP, spare=self.store.busy)
        self.accelerator.wait_for_everyone()

    def resume(self, model: MultimodalModel, optimizer: Any, steps: int) -> Progress:
        """Take up the last committed checkpoint, if there is one. All processes take the same.

        Args:
            model: gets the checkpoint's weights.
            optimizer: gets the checkpoint's moments.
            steps: the optimizer steps of the whole stage.

        Returns:
            How far the stage is.

        Raises:
            TrainingError: the checkpoint is another job's, or cannot be used.
        """
        found = [commit.latest(self.folder)] if self.accelerator.is_main_process else [None]
        folder, progress = broadcast_object_list(found)[0], Progress()
        if folder is not None:
            self.broadcast(folder)
            progress = self.load(folder, model, optimizer, steps)
        if self.accelerator.is_main_process:
            kept = folder and folder / self.metrics_log.path.name
            if kept and kept.exists():  # the log here may be older, or of steps that are done again
                shutil.copyfile(kept, self.metrics_log.path)
            self.metrics_log.cut(progress.step)
        return progress

    def load(self, folder: Path, model: MultimodalModel, optimizer: Any, steps: int) -> Progress:
        """Take up one checkpoint; `resume` says the rest."""
        state = _State.read(folder)
        if state.job != self.job.digest:
            raise TrainingError(f"{folder}: of another job; move {self.folder} away to start this one")
        if not 0 <= state.progress.step <= steps:
            raise TrainingError(f"{folder}: {_STATE}: step {state.progress.step} of {steps}")
        moments = read_optimizer(folder / _OPTIMIZER, optimizer)
        model.load_trainable(load_weights(folder, set(model.trainable())), folder)
        if self.sharded:
            load_optimizer_state(model, optimizer.optimizer, moments)
        else:
            optimizer.load_state_dict(moments)
        return state.progress

    def broadcast(self, folder: Path) -> None:
        """Give every node a committed folder that the first process has, through the store.

        Does nothing where all processes are on one node.
        """
        accelerator = self.accelerator
        if accelerator.num_processes == int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)):
            return
        if accelerator.is_main_process:
            self.store.push(folder, commit.KEEP if folder.parent == self.folder else 0)
            self.store.drain()
        accelerator.wait_for_everyone()
        if accelerator.is_local_main_process and not commit.committed(folder):
            self.store.pull(folder)
        accelerator.wait_for_everyone()

    def finish(
        self, model: MultimodalModel, inherited: dict[str, torch.Tensor], progress: Progress, trained_on: dict[str, Any]
    ) -> None:
        """Commit the stage's result, and remove its checkpoints.

        Args:
            model: the trained model.
            inherited: weights of the stage before that were not trained here, by name.
            progress: what the whole stage cost.
            trained_on: the number of samples, and the names of rows that were left out.
        """
        self.accelerator.wait_for_everyone()
        weights = _gathered(inherited | model.trainable())
        if self.accelerator.is_main_process:
            result = self.folder / commit.RESULT
            with commit.commit_folder(result) as folder:
                save_file(weights, folder / WEIGHTS)
                about = {
                    "parts": self.job.parts.model_dump(mode="json"),
                    "train": {part: tune.model_dump() for part, tune in self.job.stage.train.items()},
                    "job": self.job.digest,
                    "labels": self.job.labels,
                }
                (folder / MODEL).write_text(json.dumps(about, indent=1))
                (folder / METRICS).write_text(json.dumps(vars(progress) | trained_on, indent=1))
                self._keep_metrics(folder)
            self.store.push(result, keep=0)
            commit.prune(self.folder, keep=0)
        self.accelerator.wait_for_everyone()

    def _keep_metrics(self, folder: Path) -> None:
        if self.metrics_log.path.exists():
            shutil.copyfile(self.metrics_log.path, folder / self.metrics_log.path.name)


def _gathered(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole tensors on the CPU. All processes must ask together."""
    return {name: full_tensor(weight.detach()).cpu().contiguous() for name, weight in weights.items()}
