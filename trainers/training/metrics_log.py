"""Metrics on their way to MLflow: a local file of one line per step, so that training never waits for a server.

Whoever has the record open (the study's controller) sends what it does not have yet; see
`acsearch.reporting.mlflow_record`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from trainers.utils.atomic import atomic_write


@dataclass(frozen=True)
class MetricsEntry:
    """Metrics of an optimizer step.

    Attributes:
        step: counted from 1.
        time: seconds since 1970.
        metrics: numbers by name.
    """

    step: int
    time: float
    metrics: dict[str, float]


_ENTRY = TypeAdapter(MetricsEntry)


@dataclass(frozen=True)
class MetricsLog:
    """The metrics of a stage, as a file of JSON lines.

    Attributes:
        path: the file.
    """

    path: Path

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add the metrics of a step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_json(MetricsEntry(step, time.time(), metrics)))

    def read(self) -> list[MetricsEntry]:
        """Every whole entry; a line that a crash cut short, or that is none, is left out."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        read = []
        for line in lines:
            try:
                read.append(_ENTRY.validate_json(line))
            except ValueError:
                continue
        return read

    def cut(self, step: int) -> None:
        """Remove the entries after a step, since these steps will be done again."""
        if self.path.exists():
            kept = [line for line in self.read() if line.step <= step]
            with atomic_write(self.path) as fresh:
                fresh.write_text("".join(map(_json, kept)), encoding="utf-8")


def _json(line: MetricsEntry) -> str:
    return json.dumps(asdict(line)) + "\n"
