"""Throw-away Slurm clusters: a controller and a few nodes each, all on this machine, on ports of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import debian
from support.ports import free_port

_PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"


def install() -> None:
    """From Debian where it has to be. They run as root, so the test must too."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to start Slurm's daemons by hand")
    for attempt in (1, 2):
        if all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
            return
        if attempt == 1:
            debian.install(_PACKAGES)
    pytest.skip(f"needs Slurm: on Debian the test installs it, elsewhere install {_PACKAGES}")


@contextmanager
def munge() -> Iterator[Path]:
    """What tells the daemons of a cluster that they may trust each other. Yields its socket."""
    install()
    folder = Path(tempfile.mkdtemp(prefix="acsearch-munge-"))  # all above must be its own or root's, open to read
    folder.chmod(0o755)
    key, place = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    files = [f"--{what}-file={folder}/munged.{what}" for what in ("pid", "log", "seed")]
    as_user = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    process = subprocess.Popen(
        [*as_user, "munged", "--foreground", f"--key-file={key}", f"--socket={place}", *files],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while not place.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield place
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@dataclass
class Cluster:
    """daemons: the controller first, then a slurmd for each node."""

    name: str
    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start_controller(self) -> None:
        self.daemons[:1] = [self._run("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")]

    def start(self, nodes: int) -> None:
        self.start_controller()
        for node in range(1, nodes + 1):
            self.daemons.append(
                self._run("slurmd", "-D", "-N", f"{self.name}{node}", "-f", f"{self.folder}/slurm.conf")
            )
        until = time.monotonic() + 60
        while self._idle() != nodes:
            assert time.monotonic() < until, (self.folder / "slurmctld.log").read_text()
            time.sleep(0.1)

    def _idle(self) -> int:
        with suppress(AssertionError):
            return len(self.ask("sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N").splitlines())
        return 0

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        environment = os.environ | self.environment
        with (self.folder / f"{command[0]}.out").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """-9 to all of it at once: the daemons, and the steps and jobs that the slurmds started."""
        everything = [pid for daemon in self.daemons for pid in [daemon.pid, *descendants(daemon.pid)]]
        everything += [pid for pid in steps(self.folder) if pid not in everything]
        everything += [pid for step in list(everything) for pid in descendants(step) if pid not in everything]
        for pid in everything:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self.daemons:
            daemon.wait()


def steps(folder: Path) -> list[int]:
    """Processes of this cluster's own slurmstepds, which leave their slurmd's side, and of its jobs."""
    ours, conf = [], f"SLURM_CONF={folder}/slurm.conf".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name != "slurmctld" and conf in (process / "environ").read_bytes().split(b"\0"):
                ours.append(int(process.name))
    return [pid for pid in ours if pid != os.getpid()]


def descendants(pid: int) -> list[int]:
    children = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    return [one for child in children for one in (child, *descendants(child))]


@contextmanager
def cluster(name: str, socket_: Path, nodes: int = 2) -> Iterator[Cluster]:
    """A cluster of so many nodes with eight cores each, whatever this machine has."""
    host = socket.gethostname().split(".")[0]
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))  # not under tmp_path: steps listen on sockets of 108 characters
    (folder / "state").mkdir()
    lines = [
        f"ClusterName={name}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={free_port()}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={socket_},cred_expire=6",  # also how long a requeued job waits
        "CredType=cred/munge",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool.%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdLogFile={folder}/slurmd.%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "SlurmdTimeout=10",
        "KillWait=30",
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0",
    ]
    for node in range(1, nodes + 1):
        (folder / f"spool.{name}{node}").mkdir()
        lines.append(
            f"NodeName={name}{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=8 Boards=1 "
            "SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16000 State=UNKNOWN"
        )
    lines.append("PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30")
    lines.append("PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    made = Cluster(name, folder)
    try:
        made.start(nodes)
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)  # dying steps may still write
