"""Train a stage in this process, or in several under torchrun."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from acsearch.errors import TrainingError
from trainers.checkpoint import committed
from trainers.data import read_manifest
from trainers.job import Job
from trainers.order import Schedule
from trainers.outbox import Outbox
from trainers.train import OUTBOX, RESULT, Watch, run_stage

_LOOK = 2.0  # seconds between looks at how far the processes are


def launch(job: Job, folder: Path, processes: int, watch: Watch | None = None) -> Path:
    """The committed result of a stage; see `run_stage`. Raises TrainingError with what the processes said."""
    if processes == 1:
        return run_stage(job, folder, watch)
    result, log = folder / RESULT, folder / "train.log"
    if committed(result):
        return result
    folder.mkdir(parents=True, exist_ok=True)
    steps = _steps(job) if watch else 0
    (folder / "job.json").write_text(job.model_dump_json(indent=1))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "trainers", str(folder / "job.json"), str(folder)]
    with log.open("a", encoding="utf-8") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                lines = Outbox(folder / OUTBOX).read() if watch else []
                if watch and lines:
                    watch(lines[-1].step, steps, lines[-1].metrics["loss"])
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK)
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.returncode or not committed(result):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if "rror:" in line] or lines[-1:]  # torchrun's own lines come after it
        raise TrainingError(
            f"training in {processes} processes failed: {told[-1] if told else 'no output'} (see {log})"
        )
    return result


def _steps(job: Job) -> int:
    lengths = read_manifest(job.data, job.images).lengths
    return Schedule(lengths, job.stage.batch, job.seed, job.stage.epochs).steps
