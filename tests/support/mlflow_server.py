"""A throw-away MLflow server on PostgreSQL and S3, on a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support import s3, slurm
from support.ports import free_port


class Server:
    """url: what clients are told."""

    def __init__(self, folder: Path, database: str, bucket: s3.Server) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "mlflow.log"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        self._command += [f"--backend-store-uri={database}", f"--artifacts-destination=s3://{s3.BUCKET}/mlflow"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._environment = os.environ | bucket.environment | quiet
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 180
        while True:
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < until
            try:
                return urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            except OSError:
                time.sleep(0.2)

    def kill(self) -> None:
        """-9, with its workers."""
        if self._process is not None:
            for pid in (self._process.pid, *slurm.descendants(self._process.pid)):
                with suppress(ProcessLookupError):  # a worker that saw the first one die
                    os.kill(pid, 9)
            self._process.wait()
            self._process = None


@contextmanager
def server(folder: Path, database: str, bucket: s3.Server) -> Iterator[Server]:
    made = Server(folder, database, bucket)
    try:
        made.start()
        yield made
    finally:
        made.kill()
