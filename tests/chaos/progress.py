"""How far a study has come, as its work folders show it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chaos.places import Place
from trainers.checkpoints.commit import MANIFEST

PHASES = ("start", "data and C", "stage 1", "between candidates", "stage 2", "evaluation", "proposing and recording")
EVENTS = 60  # of an undisturbed study, which finetunes two of three candidates
# what is there once it has happened; each step of training is an event too
_EVENTS = (
    "data/*/world.json",
    "pairs/*.pt",
    "features/*.npy",
    "scores/*.json",
    "stages/*",
    f"stages/*/result/{MANIFEST}",
    "stages/*/eval",
    "stages/*/eval/results/*.json",
)


class Progress:
    """Counts what has happened in a study. An event that a kill has undone, and that comes again, counts once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._seen: set[str] = set()
        self._began = time.monotonic()

    def count(self) -> int:
        """Events so far: none before there is a work folder, and about EVENTS in the end."""
        for home in self._place.homes:
            self._seen.update(_events(home / "work"))
        return len(self._seen)

    def reached(self, count: int) -> bool:
        return self.count() >= count

    def pace(self) -> float:
        """Seconds that an event has taken so far, on average."""
        return (time.monotonic() - self._began) / max(1, len(self._seen))


def _events(work: Path) -> Iterator[str]:
    if work.exists():
        yield "work"
    for pattern in _EVENTS:
        for path in work.glob(pattern):
            yield str(path.relative_to(work))
    for path in work.glob("stages/*/outbox.jsonl"):
        with suppress(OSError):
            for step in range(path.read_text().count("\n")):
                yield f"{path.parent.name} step {step + 1}"


def phase(place: Place) -> str:
    """What the study is at: one of PHASES."""
    stages = [stage for home in place.homes for stage in (home / "work" / "stages").glob("*")]
    if not stages:
        return "start" if not any((home / "work").exists() for home in place.homes) else "data and C"
    done = {stage.name for stage in stages if (stage / "result" / MANIFEST).exists()}
    training = {stage.name for stage in stages if (stage / "outbox.jsonl").exists()} - done
    if training:
        return "stage 1" if len(done) < 3 else "stage 2"
    if len(done) < 3:
        return "between candidates"
    evaluated = {stage.name for stage in stages if len(list(stage.glob("eval/results/*.json"))) == 2}
    begun = {stage.name for stage in stages if (stage / "eval").exists()}
    if begun - evaluated or len(done) - 3 > len(evaluated):
        return "evaluation"
    return "proposing and recording"
