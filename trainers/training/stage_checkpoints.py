"""The checkpoints of a stage that is being trained: committed, taken up again, and its result at the end.

Every process of the stage makes these calls at the same time. Each writes its own part of a checkpoint, in the
background; the first one commits it when all parts are there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor

from trainers.checkpoints import commit
from trainers.checkpoints.shards import Shards, start_saving
from trainers.checkpoints.work_store import Store
from trainers.errors import TrainingError
from trainers.job import Job
from trainers.model.fsdp import full_tensor
from trainers.model.loading import METRICS, MODEL, WEIGHTS
from trainers.model.multimodal import MultimodalModel
from trainers.training.earlier_checkpoints import is_earlier, load_earlier
from trainers.training.metrics_log import MetricsLog

_STATE, _MOMENTS = "state.json", "optimizer"


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
        """Begin to write a checkpoint of this step; training goes on meanwhile. `wait` returns when it is committed."""
        self.wait()
        target = commit.step_folder(self.folder, progress.step)
        fresh = self._begin(target, progress) if self.accelerator.is_main_process else None
        fresh = broadcast_object_list([fresh])[0]
        tensors, group, writes = model.trainable() | _moments(model, optimizer.optimizer), self._group, True
        if not self._reached_by_all(fresh):  # machines with a disk of their own each: the first one takes all
            tensors = _gathered(tensors, keep=self.accelerator.is_main_process)
            group, writes = None, self.accelerator.is_main_process
        if writes:
            saving = start_saving(tensors, fresh, group)
            first = self.accelerator.is_main_process
            self._pending.append(self._committer.submit(self._commit, saving, fresh, target) if first else saving)

    def wait(self) -> None:
        """Return when no checkpoint is being written any more.

        Raises:
            OSError: it cannot be written, and other errors of the disk and of the processes that write together.
        """
        while self._pending:
            self._pending.pop().result()

    def _begin(self, target: Path, progress: Progress) -> Path:
        """A folder with everything but the tensors."""
        fresh = commit.begin(target)
        state = {"job": self.job.digest, "progress": vars(progress), "labels": self.job.labels}
        (fresh / _STATE).write_text(json.dumps(state, indent=1))
        self._keep_metrics(fresh)
        return fresh

    def _commit(self, saving: Future[Any], fresh: Path, target: Path) -> None:
        """When all processes have written their shards."""
        try:
            saving.result()
            commit.complete(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self.store.push(target, commit.KEEP)
        commit.prune(self.folder, commit.KEEP, spare=self.store.busy)

    def _reached_by_all(self, folder: Path) -> bool:
        """Whether every process sees a folder of the first one. All of them ask together."""
        seen = torch.tensor(int(folder.is_dir()), device=self.accelerator.device)
        everyone = int(self.accelerator.reduce(seen, "sum"))
        return everyone == int(self.accelerator.num_processes)

    @cached_property
    def _group(self) -> Any:
        """Processes that talk while the others train; None for a process by itself."""
        return dist.new_group(backend="gloo") if self.accelerator.num_processes > 1 else None

    @cached_property
    def _pending(self) -> list[Future[Any]]:
        return []

    @cached_property
    def _committer(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "checkpoint")

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
        if is_earlier(folder):
            load_earlier(folder, model, optimizer, sharded=self.sharded)
            return state.progress
        shards = Shards(folder)
        moments = _moments(model, optimizer.optimizer, shards.names)
        shards.load({name: one.detach() for name, one in (model.trainable() | moments).items()}, self._group)
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
        self, model: MultimodalModel, inherited: dict[str, Tensor], progress: Progress, trained_on: dict[str, Any]
    ) -> None:
        """Commit the stage's result, and remove its checkpoints.

        Args:
            model: the trained model.
            inherited: weights of the stage before that were not trained here, by name.
            progress: what the whole stage cost.
            trained_on: the number of samples, and the names of rows that were left out.
        """
        self.wait()
        self.accelerator.wait_for_everyone()
        weights = _gathered(inherited | model.trainable(), keep=self.accelerator.is_main_process)
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


def _moments(
    model: MultimodalModel, optimizer: torch.optim.Optimizer, names: Set[str] = frozenset()
) -> dict[str, Tensor]:
    """What AdamW remembers of each weight, under names of its own.

    Args:
        model: whose weights are trained.
        optimizer: that trains them.
        names: of what is to be remembered, where the optimizer has none of it yet.
    """
    found: dict[str, Tensor] = {}
    for name, weight in model.trainable().items():
        state = optimizer.state.get(weight, {})
        if f"{_MOMENTS}.{name}.step" in names:
            fused = optimizer.param_groups[0].get("fused")
            place = weight.device if fused else torch.device("cpu")
            state = optimizer.state[weight] = {
                "step": torch.zeros((), device=place),
                "exp_avg": torch.zeros_like(weight, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
            }
        found |= {f"{_MOMENTS}.{name}.{kind}": one for kind, one in state.items()}
    return found


def _gathered(weights: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, of the processes that keep them. All processes must ask together."""
    whole = ((name, full_tensor(weight.detach())) for name, weight in weights.items())
    return {name: weight.cpu().contiguous() for name, weight in whole if keep}
