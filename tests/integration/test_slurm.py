"""Studies through Slurm: real clusters on this machine, jobs that are preempted, clusters that die."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from support import ROOT, mlflow_server, postgres, s3, slurm, tiny
from support.fork_server import Forks
from trainers.checkpoints import commit
from trainers.job import Job, Parts, Stage, Tune

pytestmark = pytest.mark.services

STEPS = 72  # of the finetune below
TWO = tiny.STUDY.replace("[clip@32, siglip@32, clip@32+siglip@32]", "[clip@32, siglip@32]").replace(
    "    template: chat\n    train:", "    epochs: 12\n    template: chat\n    train:"
)


@pytest.fixture(scope="module")
def munge() -> Iterator[Path]:
    with slurm.munge() as socket:
        yield socket


@pytest.fixture(scope="module")
def alpha_and_beta(munge: Path) -> Iterator[tuple[slurm.Cluster, ...]]:
    with slurm.cluster("alpha", munge) as alpha, slurm.cluster("beta", munge) as beta:
        yield alpha, beta


@dataclass(frozen=True)
class Services:
    """What all sites share: the studies' database, the MLflow server and the bucket."""

    storage: str
    tracking: mlflow_server.Server
    bucket: s3.Server


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folders = [tmp_path_factory.mktemp(name) for name in ("postgres", "s3", "mlflow")]
    with postgres.server(folders[0]) as server, s3.server(folders[1]) as bucket:
        storage, record = (postgres.database(server, name) for name in ("studies", "mlflow"))
        with mlflow_server.server(folders[2], record, bucket) as tracking:
            yield Services(storage, tracking, bucket)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    (folder / "study.yaml").write_text(TWO)
    return folder


class Site:
    """A login node: a cluster, a folder of its own, and what all sites share."""

    def __init__(self, cluster: slurm.Cluster, home: Path, services: Services) -> None:
        self.cluster, self.home = cluster, home
        settings = services.bucket.environment | {
            "ACSEARCH_HOME": str(home),
            "ACSEARCH_STORAGE": services.storage,
            "ACSEARCH_WORK": f"s3://{s3.BUCKET}/work",
            "MLFLOW_TRACKING_URI": services.tracking.url,
            "ACSEARCH_LEASE_SECONDS": "6",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.environment = os.environ | cluster.environment | settings

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "acsearch", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def asked(self, forked: Forks, *arguments: str) -> str:
        """What a command says that only reads."""
        return said(forked.command(*arguments), self.environment | forked.environment)

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.home.glob("jobs/*.err")))


def finish(process: subprocess.Popen[str], site: Site) -> str:
    out, error = process.communicate(timeout=1200)
    assert process.returncode == 0, error + site.logs()
    return out


def until(what: Callable[[], object], process: subprocess.Popen[str], site: Site, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, (process.communicate(), site.logs())
        assert time.monotonic() < end, site.logs()
        time.sleep(0.05)


def finetune_steps(home: Path) -> int:
    """Steps that the finetune has done so far: it is the stage with the most."""
    return max((len(path.read_text().splitlines()) for path in home.glob("work/stages/*/outbox.jsonl")), default=0)


def preempt(site: Site, controller: subprocess.Popen[str], job: str, *command: str) -> None:
    """By this command. The job goes back into the queue, and then on."""
    before = finetune_steps(site.home)
    site.cluster.ask(*command)
    until(lambda: site.cluster.ask("squeue", "-h", "-j", job, "-o", "%T") == "PENDING", controller, site)
    at = finetune_steps(site.home)
    assert before <= at < STEPS
    until(lambda: finetune_steps(site.home) > at, controller, site)


def test_preempted_then_its_cluster_dies_and_another_goes_on(
    forked: Forks, alpha_and_beta: tuple[slurm.Cluster, ...], services: Services, study: Path, tmp_path: Path
) -> None:
    """The clusters share no folder. The result is that of a run on one machine that nobody disturbed."""
    alpha, beta = (Site(cluster, tmp_path / cluster.name, services) for cluster in alpha_and_beta)
    first = alpha.begin("study", "start", str(study), "--budget", "1", "--engine", "slurm", "--parallel", "2")
    until(lambda: finetune_steps(alpha.home) > 10, first, alpha)
    (job,) = alpha.cluster.ask("squeue", "-h", "-o", "%i").split()
    preempt(alpha, first, job, "scancel", "--signal=USR2", job)  # as Slurm does when the time limit nears
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    preempt(alpha, first, job, "sbatch", *urgent)
    alpha.cluster.kill()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    at = finetune_steps(alpha.home)
    assert at < STEPS
    status = beta.asked(forked, "study", "status", "tiny")
    assert f"job {job} of alpha" in status
    assert "preempted on " in status
    assert "stopped as asked after step" in status
    finish(beta.begin("study", "resume", "tiny", "--engine", "slurm"), beta)
    assert not [path for path in beta.home.glob("work/stages/*") if not (path / "result").exists()]
    there = json.loads(beta.asked(forked, "study", "show", "tiny", "--json"))
    expected = undisturbed(forked, study, tmp_path / "here")
    assert there["candidates"] == expected["candidates"]
    (one,), (other,) = there["finetunes"], expected["finetunes"]
    assert (one["representation"], one["scores"]) == (other["representation"], other["scores"])
    weights = services.bucket.client().get_object(Bucket=s3.BUCKET, Key=weights_of(services.bucket, one["checkpoint"]))
    assert weights["Body"].read() == (Path(other["checkpoint"]) / "weights.safetensors").read_bytes()
    client = MlflowClient(tracking_uri=services.tracking.url)
    losses = client.get_metric_history(one["run"], "train/loss")
    assert [point.step for point in losses] == list(range(1, STEPS + 1))
    champion = client.get_model_version_by_alias("acsearch-tiny", "champion")
    assert (champion.run_id, champion.description) == (one["run"], one["representation"])


def undisturbed(forked: Forks, study: Path, home: Path) -> dict[str, Any]:
    environment = os.environ | forked.environment | {"ACSEARCH_HOME": str(home)}
    said(forked.command("study", "start", str(study), "--budget", "1"), environment)
    return dict(json.loads(said(forked.command("study", "show", "tiny", "--json"), environment)))


def said(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights_of(bucket: s3.Server, checkpoint: str) -> str:
    """The key of a committed model's weights, by its address."""
    prefix = checkpoint.removeprefix(f"s3://{s3.BUCKET}/")
    found = bucket.client().list_objects_v2(Bucket=s3.BUCKET, Prefix=prefix)["Contents"]
    (key,) = [one["Key"] for one in found if one["Key"].endswith("weights.safetensors")]
    return str(key)


def network_split(cluster: slurm.Cluster, job: str, log: Path) -> None:
    """The node's daemon is gone, so Slurm restarts the job on the other node; its first copy has noticed nothing."""
    wait_for(lambda: begun(log), log)
    node = cluster.ask("squeue", "-h", "-j", job, "-o", "%N")
    daemon = cluster.daemons[int(node.removeprefix(cluster.name))]
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    cluster.ask("scontrol", "update", f"nodename={node}", "state=DOWN", "reason=split")


def scheduler_restart(cluster: slurm.Cluster, job: str, log: Path) -> None:
    """The scheduler dies before it has written down that the job runs, and starts it once more."""
    state = cluster.folder / "state"
    wait_for((state / "job_state").exists, log)
    kept = shutil.copytree(state, cluster.folder / "kept")  # what it writes every five seconds
    wait_for(lambda: cluster.ask("squeue", "-h", "-j", job, "-o", "%T") == "RUNNING", log)
    cluster.daemons[0].send_signal(signal.SIGKILL)
    cluster.daemons[0].wait()
    shutil.rmtree(state)
    kept.rename(state)
    cluster.start_controller()


@pytest.mark.parametrize("disturb", [network_split, scheduler_restart])
def test_a_job_that_is_started_twice_finetunes_once(
    munge: Path, services: Services, tmp_path: Path, disturb: Callable[[slurm.Cluster, str, Path], None]
) -> None:
    log, script = tmp_path / "log", tmp_path / "job.sh"
    with slurm.cluster("gamma", munge) as gamma:
        site = Site(gamma, tmp_path / "home", services)
        work = [sys.executable, str(ROOT / "tests/support/slow_controller.py"), disturb.__name__, "2", "12", str(log)]
        script.write_text(f"#!/bin/sh\nexec {shlex.join(work)}\n")
        sbatch = ["sbatch", "--parsable", "--requeue", "--begin=now+2", f"--output={tmp_path}/out", str(script)]
        done = subprocess.run(sbatch, cwd=ROOT, env=site.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        until = time.monotonic() + 900
        disturb(gamma, job, log)
        copies: set[str] = set()
        while len(copies) < 2 or len(ended(log)) < 2:
            copies |= {path.name for path in Path("/proc").glob("[0-9]*") if works_on(path, disturb.__name__)}
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
    assert sorted(ended(log)) == [0, 1]


def test_one_training_on_two_nodes(
    alpha_and_beta: tuple[slurm.Cluster, ...], services: Services, study: Path, tmp_path: Path
) -> None:
    """One process on each, started by srun, killed and started again: they train what two on one machine train."""
    tiny.manifest(tmp_path, 12)
    train = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="full", lr=1e-2)}
    job = Job(
        parts=Parts(
            representation="clip@32|pool@2",
            llm=str(study / "llm"),
            template="chat",
            encoders=(study / "encoders.yaml",),
        ),
        stage=Stage(
            data="x", template="chat", train=train, batch=4, micro_batch=2, longest=100, epochs=4, checkpoint_every=2
        ),
        data=tmp_path / "turns-2.json",
    )
    (tmp_path / "job.json").write_text(job.model_dump_json())
    run = "import sys; from pathlib import Path; from trainers.job import read_job; "
    run += "from trainers.training.launch import launch; "
    run += "launch(read_job(Path(sys.argv[1])), Path(sys.argv[2]), 2)"
    command = shlex.join([sys.executable, "-c", run, str(tmp_path / "job.json")])
    (tmp_path / "job.sh").write_text(f"#!/bin/sh\nsrun --nodes=1 --ntasks=1 {command} {tmp_path}/slurm\n")
    site = Site(alpha_and_beta[1], tmp_path, services)
    sbatch = ["sbatch", "--wait", "--nodes=2", f"--output={tmp_path}/out", str(tmp_path / "job.sh")]
    with subprocess.Popen(sbatch, cwd=ROOT, env=site.environment) as first:
        wait_for(lambda: commit.latest(tmp_path / "slurm") or first.poll() is not None, tmp_path / "out")
        site.cluster.ask("scancel", "--signal=KILL", *site.cluster.ask("squeue", "-h", "-o", "%i").split())
    assert first.returncode
    done = subprocess.run(sbatch, cwd=ROOT, env=site.environment, capture_output=True, text=True)
    log = tmp_path / "slurm" / "training.log"
    assert done.returncode == 0, (tmp_path / "out").read_text() + (log.read_text() if log.exists() else "")
    subprocess.run([*shlex.split(command), str(tmp_path / "here")], cwd=ROOT, env=site.environment, check=True)
    one, other = (tmp_path / where / "result" / "weights.safetensors" for where in ("slurm", "here"))
    assert one.read_bytes() == other.read_bytes()


def begun(log: Path) -> list[int]:
    return trials(log, "begin")


def ended(log: Path) -> list[int]:
    return trials(log, "end")


def trials(log: Path, what: str) -> list[int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(what)]


def works_on(process: Path, name: str) -> bool:
    with suppress(OSError):
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        return arguments[2:3] == [name.encode()] and (process / "stat").read_text().split()[2] != "Z"
    return False


def wait_for(what: Callable[[], object], log: Path, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, log.read_text() if log.exists() else "it said nothing"
        time.sleep(0.05)
