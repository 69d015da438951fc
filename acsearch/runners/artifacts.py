"""What training leaves of a candidate: logs, models and files, here or in the work store."""

from __future__ import annotations

from pathlib import Path

from acsearch.config.study_file import StudyConfig
from acsearch.runners.work_folder import WorkFolder
from trainers.checkpoints import commit
from trainers.checkpoints.work_store import open_store
from trainers.model.loading import METRICS
from trainers.training.train import METRICS_LOG, RESULT
from trainers.utils.atomic import atomic_write, remove_stale
from trainers.utils.locks import Locks
from trainers.utils.parsing import parse_json


class TrainingArtifacts:
    """The artifacts of a study that trains; see `acsearch.runners.base.Artifacts`."""

    def __init__(self, config: StudyConfig, work: Path, store: str | None = None) -> None:
        """
        Args:
            config: of a study that trains.
            work: the work folder.
            store: fsspec URL of the work store; None for none.

        Raises:
            StoreError: the work store cannot be used.
        """
        self._folder = WorkFolder.of(config, work, store)
        self._representations = self._folder.training.representations
        self._store = open_store(self._folder.shared)

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        return self._metrics_log(self._stage(candidate, trial))

    def dropped(self, candidate: int, trial: int | None) -> list[str]:
        result = self._stage(candidate, trial) / RESULT
        here = result / METRICS
        metrics = here.read_bytes() if here.is_file() else self._store.read(result, METRICS)
        return [] if metrics is None else parse_json(metrics.decode()).get("dropped", [])

    def _stage(self, candidate: int, trial: int | None) -> Path:
        representation, folder = self._representations[candidate], self._folder
        return folder.stage(folder.align_job(representation) if trial is None else folder.finetune_job(representation))

    def model(self, candidate: int) -> Path | None:
        folder = self._folder
        return self._store.result(folder.stage(folder.finetune_job(self._representations[candidate])))

    def files(self, candidate: int, *, finetuned: bool) -> list[Path]:
        representation, folder = self._representations[candidate], self._folder
        jobs = [folder.align_job(one) for one in (representation, *folder.training.references)]
        if finetuned:
            jobs.append(folder.finetune_job(representation))
        scores = [folder.alignment_file(representation)]
        if folder.training.correspondence:
            scores.append(folder.correspondence_file(representation))
        return [*map(folder.stage, jobs), *scores]

    def fetch(self, candidate: int, *, finetuned: bool, checkpoints: bool) -> None:
        for path in self.files(candidate, finetuned=finetuned):
            if path.parent.name == "stages":
                files = self._fetch_stage(path, checkpoints) if self._store.files(path) else []
            else:
                files = [path]
            for file in files:
                if not file.exists():
                    self._store.pull_file(file)

    def _fetch_stage(self, stage: Path, checkpoints: bool) -> list[Path]:
        """Returns the single files that the store has of a stage."""
        self._metrics_log(stage)
        with Locks(stage).claim("lock") as ours:  # else it is trained here
            if checkpoints and ours and not (commit.committed(stage / RESULT) or self._store.pull(stage / RESULT)):
                self._store.pull_latest(stage)
        return [file for folder in ("results", "samples") for file in self._store.files(stage / "eval" / folder)]

    def cleanup(self) -> None:
        work = self._folder.path
        for pattern in ("features", "pairs", "scores", "ranks/*", "stages/*", "stages/*/eval", "stages/*/eval/*"):
            for path in work.glob(pattern):
                remove_stale(path)
        for stage in work.glob("stages/*"):
            self._store.remove_stale(stage)
            if any(stage.glob(".*")) or any(stage.glob(f"{commit.PREFIX}*")):
                over = (stage / RESULT).exists() or self._store.read(stage / RESULT, METRICS) is not None
                with Locks(stage).claim("lock") as ours:
                    if ours:
                        commit.prune(stage, 0 if over else commit.KEEP)

    def _metrics_log(self, stage: Path) -> Path:
        """The metrics of a stage's training, brought here if it ended elsewhere."""
        kept = self._store.read(stage / RESULT, METRICS_LOG)
        if kept is not None:  # another machine may have gone on from here
            with atomic_write(stage / METRICS_LOG) as fresh:
                fresh.write_bytes(kept)
        return stage / METRICS_LOG
