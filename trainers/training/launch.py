"""Train a stage in this process, or in several: under torchrun, or under srun on all nodes of a Slurm job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from trainers.checkpoints.commit import committed
from trainers.data.sampler import Schedule
from trainers.errors import AcsearchError, CrashedError, PreemptedError, TrainingError
from trainers.job import Job
from trainers.training import preemption
from trainers.training.error_file import error_type, read_error, remove_error
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, job_samples, prepare, run_stage
from trainers.utils.progress import Reporter, StepCallback, silent

POLL_SECONDS = 2.0  # seconds between looks at how far the processes are


def launch(
    job: Job, folder: Path, processes: int, on_step: StepCallback | None = None, report: Reporter = silent
) -> Path:
    """Train a stage in one or several processes; see `run_stage`.

    Args:
        job: the stage.
        folder: where its checkpoints and its result are.
        processes: how many train together; 1 is this process itself.
        on_step: is called as training goes on; with several processes not after every step.
        report: is called with what the work store is waited for.

    Returns:
        The folder of the committed result.

    Raises:
        AcsearchError: what a process raised, with the same type.
        CrashedError: the processes ended without saying why.
        PreemptedError: this process was asked to stop.
    """
    if processes == 1:
        return run_stage(job, folder, on_step, report)
    result, log = folder / RESULT, folder / "train.log"
    prepare(job, folder, report)
    if committed(result):
        return result
    folder.mkdir(parents=True, exist_ok=True)
    preemption.clear(folder)
    remove_error(folder)
    steps = _steps(job, folder) if on_step else 0
    (folder / "job.json").write_text(job.model_dump_json(indent=1))
    command = [*_launcher(processes), "-m", "trainers", str(folder / "job.json"), str(folder)]
    environment = os.environ | {"MASTER_PORT": str(_free_port())}
    with log.open("a", encoding="utf-8") as output:
        begin = output.tell()
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            while child.poll() is None:
                if on_step and (done := MetricsLog(folder / METRICS_LOG).read()):
                    on_step(done[-1].step, steps, done[-1].metrics["loss"])
                if preemption.requested():
                    preemption.request(folder)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
        except BaseException:
            child.send_signal(signal.SIGINT)  # SIGTERM would have them commit a checkpoint first
            child.wait()
            raise
    if committed(result):
        return result
    if preemption.requested():
        raise PreemptedError(f"training in {processes} processes stopped as asked")
    with log.open("rb") as output:
        output.seek(begin)
        lines = output.read().decode(errors="replace").splitlines()
    error = read_error(folder) or _error_in(lines)
    raise type(error)(f"training in {processes} processes failed: {error} (see {log})")


def _error_in(lines: list[str]) -> AcsearchError:
    """What the log of processes says, where they left no error in the folder: nodes may have folders of their own."""
    for line in lines:
        name, _, text = line.partition(": ")
        if kind := error_type(name):
            return kind(text)
    return CrashedError(([line for line in lines if "rror:" in line] or lines[-1:] or ["no output"])[-1])


def _launcher(processes: int) -> list[str]:
    """What starts that many processes of Python. Raises TrainingError where a Slurm job's nodes cannot share them."""
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes == 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if processes % nodes:
        raise TrainingError(f"{processes} processes cannot be shared by the {nodes} nodes of this job")
    srun = ["srun", "--overlap", "--quit-on-interrupt", "--kill-on-bad-exit=1", f"--nodes={nodes}"]
    return [*srun, f"--ntasks={processes}", f"--ntasks-per-node={processes // nodes}", sys.executable]


def slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that Accelerate needs in a process that srun started.

    Args:
        environment: the process's own.

    Returns:
        Variables to add; none where something else than srun started the process.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return {}
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": environment["SLURM_STEP_TASKS_PER_NODE"].split("(")[0],
        "MASTER_ADDR": environment["SLURM_LAUNCH_NODE_IPADDR"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _steps(job: Job, folder: Path) -> int:
    lengths = job_samples(job, folder).lengths
    return Schedule(lengths, job.stage.batch, job.seed, job.stage.epochs).steps
