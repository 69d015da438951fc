"""Training jobs of tiny parts and data, what may interrupt them, and what their results are compared by."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from support import tiny
from support.ports import free_port
from trainers.checkpoints import commit
from trainers.job import Job, Parts, Stage, Tune
from trainers.model.loading import WEIGHTS
from trainers.utils.progress import StepCallback

BOTH = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="full", lr=1e-2)}
LORA = {"connector": Tune(mode="full", lr=3e-3), "llm": Tune(mode="lora", lr=1e-2, rank=4)}
CONNECTOR = {"connector": Tune(mode="full", lr=1e-2)}


@dataclass(frozen=True)
class TinyJobs:
    """Makes jobs of the tiny models and data in a folder."""

    folder: Path

    def make(
        self, train: dict[str, Tune], *, llm: str = "llama", samples: int = 21, turns: int = 2, **changes: Any
    ) -> Job:
        """Make a job that trains on 21 samples in batches of 4.

        Every eighth sample has no image, so two of six steps have fewer images; the last step of an epoch is shorter.
        `changes` are fields of the job, of its stage or of its parts.
        """
        template = "plain" if turns == 1 else "chat"
        parts = changes.pop("parts", {})
        whole = {"identity": f"{samples} {turns} {llm}"}
        whole |= {name: value for name, value in changes.items() if name in Job.model_fields}
        settings = {"epochs": 2.0, "batch": 4, "micro_batch": 2, "longest": 100, "checkpoint_every": 3}
        settings |= {name: value for name, value in changes.items() if name not in whole}
        return Job(
            parts=Parts(
                representation=parts.get("representation", "clip@32+siglip@32|pool@2"),
                llm=str(self.folder / llm),
                template="chat",
                encoders=(self.folder / "encoders.yaml",),
                seed=parts.get("seed", 0),
            ),
            stage=Stage(data="x", template=template, train=train, **settings),  # type: ignore[arg-type]
            data=self.folder / f"{samples}" / f"turns-{turns}.json",
            features=self.folder / "features",
            index=self.folder / "index",
            **whole,  # type: ignore[arg-type]
        )


class Interrupted(Exception):
    pass


def stopping(at: int) -> StepCallback:
    """A callback that interrupts training after a step."""

    def watch(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise Interrupted

    return watch


def weights(result: Path) -> bytes:
    """The file of weights in the result of a stage."""
    return (result / WEIGHTS).read_bytes()


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Assert that two results have the same weights but for rounding."""
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert set(ours) == set(theirs)
    for name, weight in ours.items():
        assert float((weight - theirs[name]).abs().max()) < tolerance, name


def flip_bit(path: Path, place: float = 0.5) -> None:
    """Flip one bit of a file, at this share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def _tensors(folder: Path) -> Path:
    """The first file of tensors in a result or a checkpoint."""
    return min(folder.glob("*.safetensors"))


def damage(kind: str) -> Callable[[Path], object]:
    """Return a function that damages a checkpoint in one of the ways that happen."""
    breaks: dict[str, Callable[[Path], object]] = {
        "unmarked": lambda folder: (folder / commit.MANIFEST).unlink(),
        "half a mark": lambda folder: os.truncate(folder / commit.MANIFEST, 40),
        "empty mark": lambda folder: (folder / commit.MANIFEST).write_text("{}"),
        "a file missing": lambda folder: (folder / "state.json").unlink(),
        "cut short": lambda folder: os.truncate(_tensors(folder), 1000),
        "a bit of the weights": lambda folder: flip_bit(_tensors(folder)),
        "a bit of the header": lambda folder: flip_bit(_tensors(folder), 0.01),
        "a bit of the mark": lambda folder: flip_bit(folder / commit.MANIFEST),
        "half-written": lambda folder: folder.rename(folder.with_name(f".{folder.name}.99999")),
    }
    return breaks[kind]


def start_ranks(context: Any, job: Job, folder: Path, world: int = 1) -> list[Any]:
    """Start the processes of a training, as torchrun would."""
    port = free_port()
    ranks = [context.Process(target=tiny.rank, args=(job, folder, rank, world, port)) for rank in range(world)]
    for one in ranks:
        one.start()
    return ranks


def exit_codes(ranks: list[Any], seconds: float = 600) -> list[int | None]:
    """Wait for processes to end. One that hangs is killed and fails the test."""
    until = time.monotonic() + seconds
    for one in ranks:
        one.join(max(0.0, until - time.monotonic()))
    hanging = [one for one in ranks if one.is_alive()]
    for one in hanging:
        one.kill()
        one.join()
    assert not hanging, "hangs"
    return [one.exitcode for one in ranks]
