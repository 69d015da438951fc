"""Have ranks do a task: under torchrun on one machine, under srun on all nodes of a Slurm job.

Whoever launches a task, the controller of a study, never touches a GPU, and holds no model: what a task leaves on a GPU
goes with its processes, so the next task finds it free.

The folder of a task has its request, its log, and small files by which ranks and controller talk: the error that ended
it, how far it is, and that it is asked to stop.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from trainers.errors import AcsearchError, CrashedError, PreemptedError, TrainingError
from trainers.ranks import preemption
from trainers.ranks.error_file import error_type, read_error, remove_error
from trainers.ranks.progress_file import ProgressFile
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter, silent

POLL_SECONDS = 2.0  # seconds between looks at how far the ranks are
_KILLED = re.compile(r"rank +: (\d+) .*\n.*exitcode.*\n.*\n +traceback : (Signal (?!15 ).*)")


@dataclass(frozen=True)
class Task:
    """What ranks do together: each runs `python -m MODULE FOLDER/NAME.json FOLDER`, which does nothing twice.

    Attributes:
        name: of the task, for messages and for its files, such as "training".
        module: that does it; see `trainers.ranks.rank`.
        request: what is to be done.
        folder: of the task. Its first rank holds the lock `lock` there while it works.
        done: whether the result is there.
    """

    name: str
    module: str
    request: BaseModel
    folder: Path
    done: Callable[[], bool]

    @property
    def log(self) -> Path:
        """What the ranks print."""
        return self.folder / f"{self.name}.log"


def apart(processes: int) -> bool:
    """Whether a task gets processes of its own.

    A single process on a machine without a GPU does its tasks itself: there is no memory of a GPU to give back, and
    starts would cost more than they are worth. One takes three seconds, nine where lmms-eval is imported, and the micro
    study of four minutes would have fifty.

    Args:
        processes: that do the task together.
    """
    return processes > 1 or torch.cuda.is_available()


def launch_ranks(
    task: Task, processes: int, watch: Callable[[], None] = lambda: None, report: Reporter = silent
) -> None:
    """Have a task done in processes of its own, and return when it is done.

    Waits first for whoever else does it on this machine, such as ranks that outlived their controller.

    Args:
        task: what is done.
        processes: how many do it together.
        watch: is called every few seconds; what it raises ends the ranks.
        report: is called with how far the first rank is.

    Raises:
        AcsearchError: what a rank raised, with the same type.
        CrashedError: the ranks ended without saying why.
        PreemptedError: this process was asked to stop.
    """
    folder = task.folder
    with Locks(folder).exclusive("lock"):
        if task.done():
            return
    preemption.clear(folder)
    remove_error(folder)
    ProgressFile(folder).remove()
    request = folder / f"{task.name}.json"
    request.write_text(task.request.model_dump_json(indent=1))
    command = [*_launcher(processes), "-m", task.module, str(request), str(folder)]
    with task.log.open("a", encoding="utf-8") as output:
        begin = output.tell()
        environment = os.environ | {"MASTER_PORT": str(_free_port())}
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _wait(child, folder, watch, report)
    if task.done():
        return
    where = f"{task.name} in {processes} process{'es' if processes > 1 else ''}"
    if preemption.requested():
        raise PreemptedError(f"{where} stopped as asked")
    with task.log.open("rb") as output:
        output.seek(begin)
        said = output.read().decode(errors="replace")
    error = _killed(said) or read_error(folder) or _error_in(said.splitlines())
    raise type(error)(f"{where} failed: {error} (see {task.log})")


def _wait(child: subprocess.Popen[bytes], folder: Path, watch: Callable[[], None], report: Reporter) -> None:
    """Until the ranks have ended. They are ended by whatever ends this."""
    told = ""
    try:
        while child.poll() is None:
            watch()
            if (text := ProgressFile(folder).read()) != told:
                report(text)
                told = text
            if preemption.requested():
                preemption.request(folder)
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
    except BaseException:
        child.send_signal(signal.SIGINT)  # SIGTERM would have them commit a checkpoint first
        child.wait()
        raise


def _killed(said: str) -> AcsearchError | None:
    """The rank that was killed, by torchrun's report: whatever the others said, they lost it. SIGTERM is torchrun's."""
    found = _KILLED.findall(said)
    return CrashedError("rank {}: {}".format(*found[-1])) if found else None


def _error_in(lines: list[str]) -> AcsearchError:
    """What the log of ranks says, where they left no error in the folder: nodes may have folders of their own."""
    for line in lines:
        name, _, text = line.partition(": ")
        if kind := error_type(name):
            return kind(text)
    errors = [line for line in lines if "rror:" in line and "ChildFailedError:" not in line]
    return CrashedError((errors or lines or ["no output"])[-1])


def _launcher(processes: int) -> list[str]:
    """What starts that many processes of Python. Raises TrainingError where a Slurm job's nodes cannot share them."""
    if processes == 1:
        return [sys.executable]
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes == 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if processes % nodes:
        raise TrainingError(f"{processes} processes cannot be shared by the {nodes} nodes of this job")
    srun = ["srun", "--overlap", "--quit-on-interrupt", "--kill-on-bad-exit=1", f"--nodes={nodes}"]
    return [*srun, f"--ntasks={processes}", f"--ntasks-per-node={processes // nodes}", sys.executable]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
