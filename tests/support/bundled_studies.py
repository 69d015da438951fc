"""Studies that are run for a while, carried elsewhere in a bundle and compared."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from acsearch.bundles import transfer as bundle
from acsearch.bundles.transfer import export_study, import_study
from acsearch.config.table_file import load_table
from acsearch.runners.base import Observation, Progress
from acsearch.runners.recorded import RecordedRunner
from acsearch.study.events import Event, Finetuned
from acsearch.study.snapshot import Snapshot
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from support.homes import TempHome

LOOKED_UP = RecordedRunner(load_table("law_v1"))


class Interrupted(Exception):
    """Stands for whatever ended a controller."""


def run(
    study: StoredStudy, finetunes: int = 99, others: dict[int, float] | None = None, left: bool = False
) -> Snapshot:
    """Run so many finetunes, and begin one more that is left unfinished. others: mmbench_en of some candidates."""

    class Some(RecordedRunner):
        done = 0

        def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
            if Some.done == finetunes:
                raise Interrupted
            Some.done += 1
            found = super().finetune(candidate, trial, run, progress)
            return replace(
                found, scores=found.scores | {"mmbench_en": (others or {}).get(candidate, found.scores["mmbench_en"])}
            )

    def watch(event: Event) -> None:
        if isinstance(event, Finetuned) and not left and Some.done == finetunes:
            raise Interrupted

    with suppress(Interrupted):
        Study(study, Some(LOOKED_UP.table), watch).run()
    return study.snapshot()


def proposals(snapshot: Snapshot) -> list[str]:
    return [record.representation for record in snapshot.finetunes]


def trials(place: TempHome) -> list[dict[str, Any]]:
    """All that Optuna holds of the trials but their keys in its tables."""
    return [{**vars(trial), "_trial_id": None} for trial in place.study().optuna_study.get_trials()]


def carry(source: TempHome, target: TempHome, **options: Any) -> bundle.Imported:
    number = len(list(source.folder.parent.glob("*.zst")))
    file = source.folder.parent / f"{number}.tar.zst"
    export_study(source, "s", file)
    return import_study(target, file, **options)
