"""Work stores of a test's own, and training jobs on machines that share one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from support import s3
from trainers.checkpoints import commit
from trainers.job import Job, Parts, Shared, Stage, Tune


def address(folder: Path) -> str:
    """The address of a test's own work store, named after its folder."""
    return f"s3://{s3.BUCKET}/{folder.name}"


def stored_keys(server: s3.Server, folder: Path) -> set[str]:
    """The keys in the bucket that belong to this test's store."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET, Prefix=f"{folder.name}/")
    return {one["Key"].split("/", 1)[1] for page in pages for one in page.get("Contents", ())}


def committed_folder(folder: Path, **files: str | bytes) -> Path:
    with commit.commit_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != commit.MANIFEST}


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def small_job(world: Path, **settings: object) -> Job:
    """A job of 12 steps, with a checkpoint after each."""
    defaults: dict[str, object] = {"epochs": 2.0, "checkpoint_every": 1, "cache_features": True}
    train = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="full", lr=1e-2)}
    stage = {"data": "x", "template": "chat", "train": train, "batch": 4, "micro_batch": 2, "longest": 100}
    return Job(
        parts=Parts(
            representation="clip@32|pool@2",
            llm=str(world / "llm"),
            template="chat",
            encoders=(world / "encoders.yaml",),
        ),
        stage=Stage(**stage, **(defaults | settings)),  # type: ignore[arg-type]
        data=world / "turns-2.json",
    )


def on_machine(job: Job, root: Path, url: str | None) -> tuple[Job, Path]:
    """The job as a machine with this work folder runs it, and the folder of its stage there."""
    shared = Shared(url=url, root=root) if url else None
    placed = job.model_copy(update={"store": shared, "features": root / "features"})
    return placed, root / "stages" / job.digest[:24]


def fail_if_trained(step: int, steps: int, loss: float) -> None:
    raise AssertionError("nothing is left to train")
