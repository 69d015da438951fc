"""Train a stage: in this process, or in ranks."""

from __future__ import annotations

from pathlib import Path

from trainers.checkpoints.commit import committed
from trainers.data.sampler import Schedule
from trainers.job import Job
from trainers.ranks.launch import Task, apart, launch_ranks
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, job_samples, prepare, run_stage
from trainers.utils.progress import Reporter, StepCallback, silent


def launch(
    job: Job, folder: Path, processes: int, on_step: StepCallback | None = None, report: Reporter = silent
) -> Path:
    """Train a stage in one or several processes; see `run_stage` and `trainers.ranks.launch.apart`.

    Args:
        job: the stage.
        folder: where its checkpoints and its result are.
        processes: how many train together.
        on_step: is called as training goes on; by ranks not after every step.
        report: is called with what the work store is waited for.

    Returns:
        The folder of the committed result.

    Raises:
        AcsearchError: what a process raised, with the same type.
        CrashedError: the processes ended without saying why.
        PreemptedError: this process was asked to stop.
    """
    if not apart(processes):
        return run_stage(job, folder, on_step, report)
    result = folder / RESULT
    if prepare(job, folder, report):
        return result
    steps = _steps(job, folder) if on_step else 0

    def watch() -> None:
        if on_step and (done := MetricsLog(folder / METRICS_LOG).read()):
            on_step(done[-1].step, steps, done[-1].metrics["loss"])

    launch_ranks(Task("training", "trainers", job, folder, lambda: committed(result)), processes, watch, report)
    return result


def _steps(job: Job, folder: Path) -> int:
    lengths = job_samples(job, folder).lengths
    return Schedule(lengths, job.stage.batch, job.seed, job.stage.epochs).steps
