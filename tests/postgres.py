"""A throw-away PostgreSQL server on a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path:
    """The folder of the server's programs, installed from Debian if it has to be."""
    for attempt in (1, 2):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if found:
            return found[-1].parent
        if attempt == 1 and os.geteuid() == 0 and shutil.which("apt-get"):
            subprocess.run("apt-get update -q && apt-get install -qy postgresql", shell=True, capture_output=True)
    pytest.skip("needs PostgreSQL: as root on Debian the test installs it, elsewhere install the package postgresql")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Its URL for SQLAlchemy, without a database at the end."""
    bin_ = programs()
    data, as_user = folder, list[str]()
    if os.geteuid() == 0:  # it refuses to be run by root, and its own user may not look into our folders
        data = Path(tempfile.mkdtemp(prefix="acsearch-postgres-"))
        shutil.chown(data, "postgres", "postgres")
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    make = ["initdb", "-D", f"{data}/data", "-U", "acsearch", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run([*as_user, bin_ / make[0], *make[1:]], check=True, capture_output=True, cwd=data)
    run = ["-D", f"{data}/data", "-p", port, "-k", data, "-h", "127.0.0.1", "-c", "fsync=off"]
    with (folder / "postgres.log").open("w") as log:
        process = subprocess.Popen([*as_user, bin_ / "postgres", *run], stdout=log, stderr=log, cwd=data)
    try:
        ready = [str(bin_ / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode:
            assert process.poll() is None, (folder / "postgres.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"postgresql+psycopg://acsearch@127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for its clients
        process.wait()
        if data != folder:
            shutil.rmtree(data)
