"""Where work is done: as jobs of Slurm, through submitit.

Every job runs one command of acsearch, which can be run by hand as well, and which does nothing that has been done. A
job that nears its time limit or is preempted stops in order and goes back into the queue under its own number.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acsearch.config.training import SlurmOptions
from acsearch.errors import StudyError
from acsearch.study.attempts import Submission
from trainers.errors import ConfigError
from trainers.ranks.preemption import EXIT_CODE

_TIMEOUT = 60  # seconds; a scheduler that is down blocks its clients for nine
_NEVER = 10**6  # time-outs after which submitit would give up


class Command:
    """What a job runs. Pickled by submitit, by name; `checkpoint` is called when the job has to make room."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        self.child = subprocess.Popen([sys.executable, "-m", "acsearch", *self.arguments])
        code = self.child.wait()
        if code == EXIT_CODE:  # preempted without the signal that submitit waits for
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True, timeout=_TIMEOUT)
            self.child = None
        elif code:
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        import submitit

        if self.child is not None:
            self.child.terminate()  # asks; see trainers.ranks.preemption
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)  # wait() would hang: __call__ is inside it
        return submitit.helpers.DelayedSubmission(Command(self.arguments))


class Slurm:
    """The cluster that this machine submits to."""

    def __init__(self, options: SlurmOptions, folder: Path, environment: Mapping[str, str]) -> None:
        """
        Args:
            options: of every job.
            folder: of job scripts and logs, which all nodes see.
            environment: of jobs, besides this process's own.

        Raises:
            ConfigError: no jobs can be submitted from here.
            StudyError: Slurm does not answer.
        """
        if shutil.which("sbatch") is None:
            raise ConfigError("--engine slurm: no sbatch here; run this where jobs are submitted")
        self._options, self._folder, self._environment = options, folder, environment
        self.cluster = cluster()

    def submit(self, name: str, arguments: list[str], submitted: str) -> Submission:
        """Queue a command of acsearch.

        Args:
            name: of the job.
            arguments: of the command.
            submitted: ISO date and time, for the submission.

        Raises:
            StudyError: Slurm refuses the job; the message has its reason.
        """
        import submitit

        executor = submitit.SlurmExecutor(folder=self._folder, max_num_timeout=_NEVER)
        executor.update_parameters(**self._parameters(name))
        os.environ |= self._environment  # which sbatch hands on, and keeps out of scripts and command lines
        try:
            job = executor.submit(Command(arguments))
        except submitit.core.utils.FailedJobError as error:
            said = [line for line in str(error).splitlines() if "error" in line.lower()] or ["no reason given"]
            raise StudyError(f"sbatch: {said[-1].removeprefix('sbatch: ')}") from error
        return Submission(self.cluster, str(job.job_id), str(job.paths.stderr), submitted)

    def _parameters(self, name: str) -> dict[str, Any]:
        given = self._options
        parameters: dict[str, Any] = {
            "job_name": name,
            "nodes": given.nodes,
            "ntasks_per_node": 1,
            "time": given.minutes,
            "signal_delay_s": given.notice,
            "setup": list(given.setup) or None,
            "partition": given.partition,
            "account": given.account,
            "gpus_per_node": given.gpus or None,
            "cpus_per_task": given.cpus,
            "mem": None if given.memory_gb is None else f"{given.memory_gb}GB",
            "additional_parameters": dict(given.options) | {"requeue": True},
            "srun_args": ["--nodes=1", "--ntasks=1"],  # the command; it starts what runs on all nodes
        }
        return {key: value for key, value in parameters.items() if value is not None}

    def alive(self, submission: Submission) -> bool:
        """Whether a job of this cluster is queued or runs. A scheduler that does not answer has lost no job."""
        asked = ["squeue", "--noheader", f"--jobs={submission.job}", "--format=%T"]
        try:
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            return True
        if answer.returncode:
            return "Invalid job id" not in answer.stderr
        return bool(answer.stdout.strip())


def cluster() -> str:
    """The name of the Slurm cluster that this machine submits to.

    Raises:
        StudyError: Slurm does not answer.
    """
    if name := os.environ.get("SLURM_CLUSTER_NAME"):
        return name
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        answer = subprocess.CompletedProcess([], 1, "", "no answer")
    found = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, re.MULTILINE)
    if found is None:
        raise StudyError(f"Slurm: {(answer.stderr.strip().splitlines() or ['no answer'])[-1]}")
    return found.group(1)
