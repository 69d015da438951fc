"""One loop for both stages: re-entrant, and the same on a laptop's core and on many GPUs.

`run_stage` looks for the stage's committed result, else for its last committed checkpoint, else starts. What is
computed depends on the job alone: the order of samples is a function of the seed, the learning rate of the step, and
the loss is divided by the supervised tokens of the whole optimizer step, over processes and accumulation.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from trainers.checkpoints import commit
from trainers.checkpoints.work_store import Store, open_store
from trainers.data.batch import Batch
from trainers.data.collate import Batcher, load
from trainers.data.feature_cache import FeatureCache, Team
from trainers.data.packing import MakesBatches, Packed, Packer
from trainers.data.sampler import Padded, Schedule, Split, computed
from trainers.data.samples import Samples, read_samples
from trainers.data.templates import IGNORE_INDEX
from trainers.errors import CandidateError, DataError, PreemptedError
from trainers.job import Job, Stage, Tune
from trainers.model.flops import ModelShape, peak_flops, training_flops
from trainers.model.fsdp import accumulate_here, full_tensor, shard
from trainers.model.loading import build_model, load_tokenizer, restore
from trainers.model.memory import MicroBatch, choose_recompute, device_memory
from trainers.model.multimodal import MultimodalModel
from trainers.model.packed_attention import prepare_packing
from trainers.model.precision import precision, training_types
from trainers.model.recompute import compile_layers, enable_recompute
from trainers.ranks import preemption
from trainers.ranks.gpu_memory import out_of_memory
from trainers.ranks.group import timeout
from trainers.training.metrics_log import MetricsLog
from trainers.training.stage_checkpoints import Progress, StageCheckpoints
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter, StepCallback, silent

RESULT, METRICS_LOG = commit.RESULT, "outbox.jsonl"
_GRACE = 60.0  # seconds for the last checkpoint's upload, where we are asked to stop
_WHOLE_GRADIENTS = 2**31  # bytes of gradients up to which they are added up whole before they are spread
_REPORT_EVERY = 10  # steps between lines about speed


def run_stage(job: Job, folder: Path, on_step: StepCallback | None = None, report: Reporter = silent) -> Path:
    """Train a stage in its folder, from wherever it was left.

    Waits for whoever else on this machine trains it already, such as processes that outlived their parent.

    Args:
        job: the stage.
        folder: where its checkpoints and its result are.
        on_step: is called after every optimizer step.
        report: is called with what the work store is waited for.

    Returns:
        The folder of the committed result.

    Raises:
        DataError: samples cannot be trained on.
        CandidateError: the loss is not finite, or memory does not suffice.
        TrainingError: a checkpoint is another job's, or cannot be used.
        PreemptedError: this process was asked to stop; see `trainers.ranks.preemption`.
        StoreError: the work store cannot be used.
    """
    result, store, first = folder / RESULT, open_store(job.store, report), os.environ.get("RANK", "0") == "0"
    if commit.committed(result):
        if first:
            store.push(result, keep=0)
        return result
    alone = Locks(folder).exclusive("lock") if first else nullcontext()
    with alone:
        if first:
            _fetch(job, folder, store)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of each node, since they may have folders of their own
            job_samples(job, folder, report)  # whoever is waited for in a collective is given up after some minutes
        limit = InitProcessGroupKwargs(timeout=timeout(minutes=10))
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[limit])  # here all processes meet
        if not commit.committed(result):  # by those that were waited for
            run = _Run(job, folder, accelerator, store)
            try:
                run.resume()
                run.preflight()
                run.train(on_step)
                run.finish()
            finally:
                run.checkpoints.wait()
    return result


def prepare(job: Job, folder: Path, report: Reporter = silent) -> bool:
    """Do what takes long before processes are started that would wait for each other.

    Downloads what the store has of the stage, and makes the index of its samples.

    Args:
        job: the stage.
        folder: where its checkpoints and its result are.
        report: is called with what is waited for.

    Returns:
        Whether the stage's result is here, and nothing is left to do.

    Raises:
        DataError: samples cannot be trained on.
        StoreError: the work store cannot be used.
    """
    with Locks(folder).exclusive("lock"):
        there = _fetch(job, folder, open_store(job.store, report))
    if not there:
        job_samples(job, folder, report)
    return there


def job_samples(job: Job, folder: Path, report: Reporter = silent) -> Samples:
    """The samples of a stage; their index is made where there is none yet."""
    stage = job.stage
    return read_samples(
        job.data,
        job.images,
        template=stage.template,
        tokenizer=load_tokenizer(job.parts.llm),
        folder=job.index or folder / "index",
        drop=stage.max_dropped if stage.on_bad_sample == "drop" else None,
        report=report,
    )


def _fetch(job: Job, folder: Path, store: Store) -> bool:
    """The stage's result; else its last checkpoint, and the result that it starts from. Returns whether it is there."""
    there = commit.committed(folder / RESULT) or store.pull(folder / RESULT)
    if not there:
        store.pull_latest(folder)
        if job.start is not None and not (job.start / commit.MANIFEST).exists():
            store.result(job.start.parent)
    return there


class _Run:
    """A stage that is being trained by this process, one of `accelerator.num_processes`."""

    def __init__(self, job: Job, folder: Path, accelerator: Accelerator, store: Store) -> None:
        self.job, self.stage, self.folder, self.accelerator, self.store = job, job.stage, folder, accelerator, store
        self.metrics_log = MetricsLog(folder / METRICS_LOG)
        self.checkpoints = StageCheckpoints(job, folder, accelerator, store, self.metrics_log)
        self.half = precision(self.stage.precision) == "bf16"
        model = build_model(job.parts, accelerator.device, training_types(self.stage))
        if job.start is not None:
            self.checkpoints.broadcast(job.start)
        inherited = restore(model, job.start) if job.start is not None else {}
        self.shape = ModelShape.of(model)
        groups, trained = model.tune(self.stage.train, job.seed), model.trainable()
        self.inherited = {name: weight for name, weight in inherited.items() if name not in trained}
        self.rates = [group["lr"] for group in groups]
        self.unwrapped: MultimodalModel = model.train()
        self.unwrapped.vision.eval()
        padded = self._batcher(model)
        self.samples, self.image_tokens = padded.samples, padded.image_tokens
        self.batcher: MakesBatches = padded
        positions = self.samples.positions(self.image_tokens, self.stage.longest)
        self.split: Split = Padded(positions, self.stage.micro_batch)
        if self.stage.pack:
            tokens = self.stage.tokens_per_pack or self.stage.micro_batch * self.stage.longest
            self.batcher, self.split = Packer(padded), Packed(positions, tokens)
            prepare_packing(model.llm)
        self.schedule = Schedule(self.samples.lengths, self.stage.batch, job.seed, self.stage.epochs)
        self.stage = self._recomputing(model)
        trained_bytes = 4 * sum(weight.numel() for group in groups for weight in group["params"])
        self.whole_gradients = trained_bytes <= _WHOLE_GRADIENTS
        if self.checkpoints.sharded:
            groups = shard(model, groups, accelerator.num_processes, accelerator.device, self.half)
        fused = accelerator.device.type == "cuda"
        optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=(0.9, 0.999), weight_decay=self.stage.weight_decay, fused=fused
        )
        self.model = model if self.checkpoints.sharded else accelerator.prepare(model)
        self.optimizer = accelerator.prepare(optimizer)
        self.progress, self.idle = Progress(), 0  # samples in which nothing is learnt
        self.checkpoint_seconds = 0.0
        self.peak = peak_flops(accelerator.device)

    def _batcher(self, model: MultimodalModel) -> Batcher:
        stage, cache = self.stage, None
        samples = job_samples(self.job, self.folder)
        if stage.cache_features and self.job.features is not None:
            cache = FeatureCache(self.job.features, model.vision, samples, self.store)
            cache.fill(self._team())
            if self.accelerator.is_main_process:
                cache.share()
        return model.batcher(samples, stage.longest, cache)

    def _recomputing(self, model: MultimodalModel) -> Stage:
        """The stage as it is run: where memory decides what is computed again, by that of all devices."""
        stage, shape, accelerator = self.stage, self.shape, self.accelerator
        if stage.recompute == "auto":
            samples = self.largest
            images = int(self.samples.with_image[samples].sum())
            positions = self.split.area(samples)
            shown = int(self.samples.per_sample(self.image_tokens)[samples].sum())
            batch = MicroBatch(positions, images, max(0, positions - shown))
            memory = torch.tensor(device_memory(accelerator.device), device=accelerator.device)
            mean = float(accelerator.reduce(memory, "mean"))
            kind = choose_recompute(shape, stage, accelerator.num_processes, batch, half=self.half, memory=mean)
            stage = stage.model_copy(update={"recompute": kind})
        enable_recompute(model.llm, stage.recomputed)
        if stage.compile:
            compile_layers(model.llm)
        return stage

    @cached_property
    def largest(self) -> np.ndarray:
        """The samples of the micro-batch that needs most memory."""
        steps, world = self.schedule.steps, self.accelerator.num_processes
        shares = (self.split(self.schedule.global_batch(step), world) for step in range(steps))
        return max((one for share in shares for mine in share for one in mine), key=self.split.area)

    def _team(self) -> Team:
        """The processes of this machine."""
        size = int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))
        return Team(self.accelerator.local_process_index, size, self.accelerator.wait_for_everyone)

    def resume(self) -> None:
        """Take up the last committed checkpoint, if there is one."""
        self.progress = self.checkpoints.resume(self.unwrapped, self.optimizer, self.schedule.steps)

    def finish(self) -> None:
        """Commit the result."""
        trained_on: dict[str, Any] = {"samples": round(self.stage.epochs * len(self.samples))}
        if self.samples.dropped:
            trained_on |= {"dropped": [one.name for one in self.samples.dropped]}
        self.checkpoints.finish(self.unwrapped, self.inherited, self.progress, trained_on)
        self.accelerator.free_memory()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def preflight(self) -> None:
        """Try the batch that needs most memory first, so that what does not fit fails now."""
        tokens, positions = self.image_tokens, self.stage.longest
        idle = self.idle = self.samples.idle(tokens, positions)
        if idle > self.stage.max_dropped * len(self.samples):
            raise DataError(
                f"{self.job.data}: {idle} of {len(self.samples)} samples have no supervised token within {positions} "
                f"positions, of which an image takes up to {tokens.max(initial=0)}: raise longest, or max_dropped"
            )
        with self._dropout(step=0):
            self._backward(self.batcher.batch(self.largest.tolist()), 1)
        self.optimizer.zero_grad()

    def train(self, on_step: StepCallback | None) -> None:
        """All optimizer steps that are left."""
        accelerator, steps = self.accelerator, self.schedule.steps
        rank, world, left = accelerator.process_index, accelerator.num_processes, range(self.progress.step, steps)
        plans = [self.split(self.schedule.global_batch(step), world)[rank] for step in left]
        batches = load(self.batcher, [batch for plan in plans for batch in plan], self.stage.workers)
        for plan in plans:
            began = time.perf_counter()
            mine = [next(batches) for _ in plan]
            waited = time.perf_counter() - began
            loss, tokens, norm, stopping = self._step(mine)
            self._count(began, waited, loss, tokens, norm)
            if on_step:
                on_step(self.progress.step, steps, self.progress.loss)
            every = self.stage.checkpoint_every
            if stopping or (every and self.progress.step % every == 0):
                began = time.perf_counter()
                self.checkpoints.save(self.unwrapped, self.optimizer, self.progress)
                self.checkpoint_seconds = time.perf_counter() - began
            if stopping:
                self.checkpoints.wait()
                self.store.drain(within=_GRACE)
                raise PreemptedError(f"stopped as asked after step {self.progress.step} of {steps}; it is committed")

    def _step(self, batches: list[Batch]) -> tuple[float, int, float, bool]:
        """One optimizer step. Returns the mean loss per supervised token, their number, and the gradient's norm; and
        whether a process has been asked to stop, on which all of them agree."""
        step, accelerator = self.progress.step, self.accelerator
        supervised = sum(int((batch.labels[:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
        asked = int(preemption.requested(self.folder))
        tokens, stopping = accelerator.reduce(
            torch.tensor([supervised, asked], device=accelerator.device), "sum"
        ).tolist()
        total = torch.zeros((), device=accelerator.device)
        with self._dropout(step):
            for place, batch in enumerate(batches):
                last = place == len(batches) - 1
                accumulate_here(self.unwrapped, self.whole_gradients and not last)
                with nullcontext() if last or self.checkpoints.sharded else accelerator.no_sync(self.model):
                    total += self._backward(batch, tokens)
        loss = float(accelerator.reduce(total, "sum")) / max(tokens, 1)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = float(full_tensor(accelerator.clip_grad_norm_(weights, self.stage.clip or math.inf)))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            names = [self.samples.name(int(i)) for i in self.schedule.global_batch(step)]
            raise CandidateError(
                f"step {step + 1}: loss {loss:g}, gradient norm {norm:g}; stopped before it could spoil the weights. "
                f"The batch: {', '.join(names)}"
            )
        factor = learning_rate(step, self.schedule.steps, self.stage.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, tokens, norm, stopping > 0

    @contextmanager
    def _dropout(self, step: int) -> Iterator[None]:
        """What a model drops is a function of the seed, the step and the process; global generators are put back."""
        device, key = self.accelerator.device, [self.job.seed, step, self.accelerator.process_index]
        seed = int(np.random.default_rng(key).integers(2**63))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield

    def _autocast(self) -> torch.autocast:
        """bf16 where it is asked for, and by default on a GPU."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.half)

    def _backward(self, batch: Batch, tokens: int) -> torch.Tensor:
        """Loss summed over a micro-batch, its gradient that of the mean over the step's tokens."""
        try:
            with self._autocast():
                loss = self.model(batch.to(self.accelerator.device))
            # processes' gradients are averaged, where they should be summed
            self.accelerator.backward(loss * (self.accelerator.num_processes / max(tokens, 1)))
        except torch.OutOfMemoryError as error:
            samples, positions = batch.input_ids.shape
            raise out_of_memory(
                f"on a micro-batch of {samples} samples x {positions} positions",
                f"lower micro_batch (the batch stays {self.stage.batch}), or set recompute: full",
            ) from error
        detached: torch.Tensor = loss.detach()
        return detached

    def _flops(self, samples: np.ndarray, tokens: int, *, recomputed: bool) -> float:
        """Operations of the samples of a step, in which so many tokens are supervised."""
        flops = 2.0 * self.shape.head * tokens * (3 if self.stage.train.get("llm", Tune()).mode == "full" else 2)
        for sample in samples.tolist():
            images = int(self.samples.with_image[sample])
            text = int(self.split.positions[sample]) - images * self.shape.image_tokens
            flops += training_flops(
                self.shape, self.stage, max(text, 0), recomputed=recomputed, images=images, predicted=0
            )
        return flops

    def _count(self, began: float, waited: float, loss: float, tokens: int, norm: float) -> None:
        progress, taken = self.progress, time.perf_counter() - began
        samples = self.schedule.global_batch(progress.step)
        progress.step += 1
        progress.seconds += taken
        progress.tokens += tokens
        progress.loss = loss if math.isnan(progress.loss) else 0.9 * progress.loss + 0.1 * loss
        if not self.accelerator.is_main_process:
            return
        metrics = {"loss": loss, "lr": self.optimizer.param_groups[0]["lr"], "grad_norm": norm}
        if progress.step == 1 and (self.samples.dropped or self.idle):
            metrics |= {"dropped_samples": len(self.samples.dropped), "samples_without_supervision": self.idle}
        if progress.step % _REPORT_EVERY == 0 or progress.step == self.schedule.steps:
            flops = self._flops(samples, tokens, recomputed=False)
            share = self.split(samples, self.accelerator.num_processes)
            held = sum(int(self.split.positions[one].sum()) for mine in share for one in mine)
            metrics |= {
                "samples_per_second": len(samples) / taken,
                "supervised_tokens_per_second": tokens / taken,
                "data_wait_share": waited / taken,
                "padding_share": 1 - held / max(computed(share, self.split), 1),
                "peak_memory_gb": _peak_memory(self.accelerator.device) / 1e9,
                "tflops": flops / taken / 1e12,
            }
            if self.checkpoint_seconds:
                metrics["checkpoint_seconds"] = self.checkpoint_seconds  # for which training stood still
            if self.peak:
                peak = self.peak * self.accelerator.num_processes * taken
                metrics |= {"mfu": flops / peak, "hfu": self._flops(samples, tokens, recomputed=True) / peak}
        planned = self.job.planned
        if planned and progress.step == self.schedule.steps:
            metrics |= {"hours": progress.seconds / 3600, "planned_hours": planned.hours}
            metrics["planned_memory_gb"] = planned.memory_gb  # beside peak_memory_gb
        self.metrics_log.write(progress.step, metrics)


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step: a linear warm-up, then a cosine to 0.

    Args:
        step: counted from 0.
        steps: of the whole stage.
        warmup: the share of the steps in which the rate rises.

    Returns:
        The share of the highest rate.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _peak_memory(device: torch.device) -> int:
    """The most bytes that were in use, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
