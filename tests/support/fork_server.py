"""Processes of Python that start at once: forks of one that has imported everything, and done nothing else.

    python -m support.fork_server SOCKET       serves
    python -> `fork_client.py` -m MODULE ...   stands for `sys.executable`; torchrun starts its workers through it too

Each is a process of its own which runs its module as `python -m` would, and can be killed like any other. Its pid and
its role lie in the folder $FORKS_PIDS, where that is given. Nothing of acsearch is replaced, but the waits below are
shorter.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from support import ROOT

ROLES = {
    "acsearch": "controller",
    "torch.distributed.run": "launcher",
    "trainers": "trainer",
    "evals": "evaluator",
    "acsearch.runners": "scorer",
}
_IMPORTED = [
    "acsearch.cli.study",
    "acsearch.runners.score_request",
    "acsearch.runners.training",
    "acsearch.reporting.mlflow_record",
    "acsearch.storage.retrying",
    "acsearch.storage.leases",
]
_IMPORTED += [
    "evals.harness",
    "evals.launch",
    "trainers.training.launch",
    "torch.distributed.run",
    "peft",
    "s3fs",
    "psycopg",
    "alembic.command",
]
_IMPORTED += ["acsearch.scores.extract", "acsearch.scores.stage1", "acsearch.scores.alignment", "studies.micro.data"]
_IMPORTED += ["mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
_IMPORTED += ["torch.distributed.elastic.agent.server.local_elastic_agent", "acsearch.scores.correspondence"]
_IMPORTED += [f"transformers.models.{name}.modeling_{name}" for name in ("auto", "clip", "llama", "siglip")]
_FRONT = Path(__file__).with_name("fork_client.py")
_set_by_imports: dict[str, str] = {}


@dataclass(frozen=True)
class Forks:
    """python: stands for the interpreter.  environment: what it must find."""

    python: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        """Of acsearch, to be run in an environment that has ours."""
        return [self.python, "-m", "acsearch", *arguments]

    @contextmanager
    def instead(self) -> Iterator[None]:
        """`sys.executable -m` starts a fork, from a test and from what it tests."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", self.python)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    def start(self, environment: Mapping[str, str], log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [self.python, "-m", *arguments],
                env=os.environ | self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


@contextmanager
def serving(folder: Path) -> Iterator[Forks]:
    """Returns when all is imported."""
    address, python = str(folder / "forks"), folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {_FRONT} "$@"\n')
    python.chmod(0o755)
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "FORKS_PYTHON": str(python)}
    process = subprocess.Popen([sys.executable, "-m", "support.fork_server", address], env=environment)
    until = time.monotonic() + 300
    while not os.path.exists(address):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    try:
        yield Forks(str(python), {"FORKS_SOCKET": address, "OMP_NUM_THREADS": "1"})
    finally:
        process.kill()
        process.wait()


def living(pids: Path) -> list[tuple[str, int]]:
    """The roles and pids of those that live."""
    found = []
    for path in sorted(pids.glob("*-*")):
        role, _, pid = path.name.rpartition("-")
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == role:
                found.append((role, int(pid)))
    return found


def _serve(address: str) -> None:
    given = dict(os.environ)
    for name in _IMPORTED:
        importlib.import_module(name)
    _set_by_imports.update({name: value for name, value in os.environ.items() if given.get(name) != value})
    import acsearch.study.attempts
    import acsearch.study.study
    import trainers.ranks.launch

    acsearch.study.attempts.PAUSE = timedelta(seconds=1)
    acsearch.study.study.POLL_SECONDS = 0.2
    trainers.ranks.launch.POLL_SECONDS = 0.05
    assert threading.active_count() == 1, "a fork would miss threads"  # Arrow has one of its own, and knows forks
    gc.freeze()
    sys.executable = os.environ["FORKS_PYTHON"]
    listener, fronts = socket.socket(socket.AF_UNIX), dict[int, socket.socket]()
    listener.bind(address + ".new")
    listener.listen(64)
    os.rename(address + ".new", address)
    while True:
        if select.select([listener], [], [], 0.01)[0]:
            front = listener.accept()[0]
            if not (pid := os.fork()):
                listener.close()
                _run(front)
            fronts[pid] = front
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                with fronts.pop(ended[0]) as front, suppress(OSError):
                    front.sendall(code.to_bytes(1, "big", signed=True))


def _run(front: socket.socket) -> None:
    """Be the process that a front asked for. Does not return."""
    import runpy
    import signal
    import traceback

    length, standard, _, _ = socket.recv_fds(front, 4, 3)
    asked = json.loads(b"".join(_receive(front, int.from_bytes(length, "big"))))
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(_set_by_imports | asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    role = ROLES[sys.argv[0]]
    Path("/proc/self/comm").write_text(role)
    if pids := os.environ.get("FORKS_PIDS"):
        (Path(pids) / f"{role}-{os.getpid()}").touch()

    def follow() -> None:
        while told := front.recv(1):
            os.kill(os.getpid(), told[0])
        os.kill(os.getpid(), signal.SIGKILL)  # the front was killed

    threading.Thread(target=follow, daemon=True).start()
    code = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    import atexit

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _receive(front: socket.socket, length: int) -> Iterator[bytes]:
    while length:
        part = front.recv(length)
        assert part
        length -= len(part)
        yield part


if __name__ == "__main__":
    _serve(sys.argv[1])
