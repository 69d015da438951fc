"""Installs what a test's servers need."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def install(packages: str) -> str:
    """As root on Debian; elsewhere nothing. Returns what apt complained of.

    One test process at a time: apt would not wait for the other.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "not root on Debian"
    with (Path(tempfile.gettempdir()) / "acsearch-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = f"apt-get update -q && apt-get install -qy --no-remove --no-install-recommends {packages}"
        return subprocess.run(command, shell=True, capture_output=True, text=True).stderr.strip()
