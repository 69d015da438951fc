"""What every rank is, whatever its task: the process's place among the others, its GPU, and how it ends.

Asked to stop by a signal, see `trainers.ranks.preemption`, a rank ends with exit code 75. An error that a person can
act on is printed, and left in the task's folder for `trainers.ranks.launch`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from trainers.errors import AcsearchError, PreemptedError
from trainers.ranks import preemption
from trainers.ranks.error_file import write_error
from trainers.ranks.gpu_memory import note_memory, out_of_memory
from trainers.ranks.group import rank_device


def run_rank(work: Callable[[], object], folder: Path) -> None:
    """Do a rank's share of a task. Ends the process where it fails.

    Args:
        work: does it.
        folder: of the task.
    """
    os.environ |= slurm_ranks(os.environ)
    try:
        with preemption.listening(), _explained():
            note_memory(rank_device())
            work()
    except PreemptedError:
        sys.exit(preemption.EXIT_CODE)
    except AcsearchError as error:
        write_error(folder, error)
        sys.exit(f"{type(error).__name__}: {error.line}")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:  # who knows better what was too large says so
        raise out_of_memory("with the model alone", "its weights do not fit this GPU") from error


def slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that torch.distributed and Accelerate need in a process that srun started.

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
