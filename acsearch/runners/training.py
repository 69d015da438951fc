"""Real candidates: scored, trained and evaluated as a study file's `training` part says.

    data/<digest>/                    what `prepare` made
    features/                         maps of frozen encoders, for whoever trains on the same images
    pairs/<key>.pt                    maps of an encoder on the pairs of correspondence
    stages/<job digest>/              a stage of training: checkpoints, then `result/`, and the outbox of its metrics
    stages/<job digest>/eval/         scores and samples of each benchmark
    scores/<key>.json                 A or C, with what else was measured

Everything in the work folder is named by what it depends on, so nothing is done twice: not after a crash, and not for
another study that has the same candidate. A work store (`trainers.checkpoints.work_store`) shares all of it but the
data among machines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from acsearch.config.study_file import StudyConfig
from acsearch.config.training import TrainingConfig
from acsearch.runners.assets import StudyAssets
from acsearch.runners.base import CandidateScores, Observation
from acsearch.scores import SCORES
from evals.benchmarks import benchmark
from evals.runner import evaluate
from trainers.checkpoints import commit
from trainers.checkpoints.work_store import open_store
from trainers.job import Job, Parts, Shared, Stage
from trainers.model.loading import METRICS, load_model
from trainers.representation import Representation
from trainers.training import preemption
from trainers.training.launch import launch
from trainers.training.train import METRICS_LOG, RESULT
from trainers.utils.atomic import atomic_write, remove_stale
from trainers.utils.digest import SHORT, digest, digest_of
from trainers.utils.locks import Locks
from trainers.utils.progress import Reporter


class TrainingRunner:
    """`acsearch.runners.base.Runner` that train."""

    def __init__(self, config: StudyConfig, work: Path, store: str | None = None) -> None:
        """store: fsspec URL of what shares the work folder among machines. Raises StoreError for one that cannot be."""
        assert config.file.training is not None
        self.training: TrainingConfig = config.file.training
        self._work = work.absolute()
        self._assets = StudyAssets(self.training, config.path.parent, self._work)
        self._shared = Shared(url=store, root=self._work) if store else None
        self._store = open_store(self._shared)
        self._say: Reporter = lambda text: None

    @property
    def parallel(self) -> int:
        return self.training.parallel

    @property
    def processes(self) -> int:
        return self.training.processes

    # -- a candidate's way ---------------------------------------------------------------------------------------------

    def score(self, candidate: int, say: Reporter) -> CandidateScores:
        """C from the encoders' features alone; then stage 1, the connector; then A."""
        started = time.perf_counter()
        self._attend(say)
        representation = self.training.representations[candidate]
        with _share_of_cores(self.parallel):
            c = self._correspondence(representation) if self.training.correspondence else {"value": None}
            a = self._alignment(representation, self._train(self._align_job(representation), "connector"))
        self._store.drain()  # what is told can be had
        details = {f"A/{key}": value for key, value in a.items()} | {f"C/{key}": value for key, value in c.items()}
        return CandidateScores(
            alignment=(a["value"],) * len(self.training.benchmarks),
            correspondence=c["value"],
            seconds=time.perf_counter() - started,
            details={key: value for key, value in details.items() if value is not None},
        )

    def finetune(self, candidate: int, trial: int, run: str | None, say: Reporter) -> Observation:
        """Stage 2, connector and language model; then the benchmarks."""
        self._attend(say)

        def evaluating(name: str, done: int, of: int) -> None:
            preemption.check()
            say(f"evaluating {name}, {done} of {of}")

        representation = self.training.representations[candidate]
        self._train(self._align_job(representation), "connector")  # where another machine scored it
        labels = {"trial": str(trial)} | ({"mlflow_run": run} if run else {})
        job = self._finetune_job(representation).model_copy(update={"labels": labels})
        result = self._train(job, "finetune")
        preemption.check()
        evaluation = evaluate(
            load_model(result, self._assets.device),
            [benchmark(name) for name in self.training.benchmarks],
            result.parent / "eval",
            batch_size=self.training.evaluation.batch_size,
            limit=self.training.evaluation.limit,
            cache=self._work / "answers",
            data={name: self._assets.data / path for name, path in self.training.evaluation.data.items()},
            progress=evaluating,
            store=self._store,
        )
        self._store.drain()
        trained = json.loads((result / METRICS).read_text())["seconds"]
        return Observation(
            scores={name: score.points for name, score in evaluation.scores.items()},
            errors={name: score.standard_error for name, score in evaluation.scores.items()},
            seconds=trained + evaluation.seconds,
            checkpoint=self._store.address(result),
        )

    def logs(self, candidate: int, trial: int | None) -> Path | None:
        representation = self.training.representations[candidate]
        job = self._align_job(representation) if trial is None else self._finetune_job(representation)
        return self._outbox(self._stage_folder(job))

    def model(self, candidate: int) -> Path | None:
        return self._store.result(self._stage_folder(self._finetune_job(self.training.representations[candidate])))

    def _attend(self, say: Reporter) -> None:
        """Tell this person from now on. Whether the store can be used should be known before anything is trained."""
        self._say = self._assets.say = say
        self._store = open_store(self._shared, say)
        self._store.check()

    def work(self, candidate: int, *, finetuned: bool) -> list[Path]:
        representation = self.training.representations[candidate]
        jobs = [self._align_job(one) for one in (representation, *self.training.references)]
        if finetuned:
            jobs.append(self._finetune_job(representation))
        files = [self._score_file("A", self._alignment_key(representation))]
        if self.training.correspondence:
            files.append(self._score_file("C", self._correspondence_key(representation)))
        return [*map(self._stage_folder, jobs), *files]

    def fetch(self, candidate: int, *, finetuned: bool, checkpoints: bool) -> None:
        for path in self.work(candidate, finetuned=finetuned):
            if path.parent.name == "stages":
                files = self._fetch_stage(path, checkpoints) if self._store.files(path) else []
            else:
                files = [path]
            for file in files:
                if not file.exists():
                    self._store.pull_file(file)

    def _fetch_stage(self, stage: Path, checkpoints: bool) -> list[Path]:
        """Returns the single files that the store has of it."""
        self._outbox(stage)
        with Locks(stage).claim("lock") as ours:  # else it is trained here
            if checkpoints and ours and not (commit.committed(stage / RESULT) or self._store.pull(stage / RESULT)):
                self._store.pull_latest(stage)
        return [file for folder in ("results", "samples") for file in self._store.files(stage / "eval" / folder)]

    def cleanup(self) -> None:
        for folder in ("features", "pairs", "scores", "stages/*", "stages/*/eval/*"):
            for path in self._work.glob(folder):
                remove_stale(path)
        for stage in self._work.glob("stages/*"):
            self._store.remove_stale(stage)
            if any(stage.glob(".*")) or any(stage.glob(f"{commit.PREFIX}*")):
                over = (stage / RESULT).exists() or self._store.read(stage / RESULT, METRICS) is not None
                with Locks(stage).claim("lock") as ours:
                    if ours:
                        commit.prune(stage, 0 if over else commit.KEEP)

    def _outbox(self, stage: Path) -> Path:
        """The metrics of a stage's training, brought here if it ended elsewhere."""
        kept = self._store.read(stage / RESULT, METRICS_LOG)
        if kept is not None:  # another machine may have gone on from here
            with atomic_write(stage / METRICS_LOG) as fresh:
                fresh.write_bytes(kept)
        return stage / METRICS_LOG

    # -- training ------------------------------------------------------------------------------------------------------

    def _align_job(self, representation: Representation) -> Job:
        return self._job(representation, self.training.align, start=None)

    def _finetune_job(self, representation: Representation) -> Job:
        return self._job(representation, self.training.finetune, start=self._align_job(representation))

    def _job(self, representation: Representation, stage: Stage, start: Job | None) -> Job:
        data = self._assets.data / stage.data
        content = [self._assets.vision(representation).fingerprint, self._assets.llm_identity, digest_of(data)]
        content += [start.digest] if start else []
        return Job(
            parts=Parts(
                representation=str(representation),
                llm=self._assets.llm,
                template=self.training.template,
                encoders=self._assets.registries,
                resize=self.training.resize,
                seed=self.training.seed,
            ),
            stage=stage,
            data=data,
            images=self._assets.data / stage.images if stage.images else None,
            start=self._stage_folder(start) / RESULT if start else None,
            seed=self.training.seed,
            identity=digest(content),
            features=self._work / "features",
            store=self._shared,
        )

    def _stage_folder(self, job: Job) -> Path:
        return self._work / "stages" / job.digest[:SHORT]

    def _train(self, job: Job, what: str) -> Path:
        """The committed result of a stage, trained if it is not there."""

        def watch(step: int, steps: int, loss: float) -> None:
            self._say(f"{what}, step {step} of {steps}, loss {loss:.2f}")

        result = launch(job, self._stage_folder(job), self.training.processes, watch, self._say)
        self._store.push(result, keep=0)  # where processes of their own did not come to it
        return result

    # -- scores --------------------------------------------------------------------------------------------------------

    def _correspondence(self, representation: Representation) -> dict[str, Any]:
        from acsearch.scores import extract
        from acsearch.scores.correspondence import correspondence

        asked = self.training.correspondence
        assert asked is not None
        vision = self._assets.vision(representation)

        def measure() -> dict[str, Any]:
            self._say("correspondence")
            if asked.definition == "C_compat":
                found = extract.measure_compat(
                    representation, self._assets.registry, self._assets.pairs, device=self._assets.device
                )
            else:
                maps = [self._pair_maps(representation, part) for part in range(len(vision.parts))]
                found = correspondence(
                    extract.on_grid(maps, vision.joining),
                    self._assets.pairs,
                    extract.frames(vision, self._assets.pairs),
                    decode=asked.decode,
                    extent=extract.extent(vision),
                )
            aware = found.geometry_aware
            return {
                "value": found.per_image,
                "per_point": found.per_point,
                "geometry_aware": aware and aware.per_image,
                "position": found.position.per_image,
                "ceiling": found.ceiling.per_image,
            }

        return self._once("C", self._correspondence_key(representation), measure)

    def _correspondence_key(self, representation: Representation) -> list[str]:
        asked = self.training.correspondence
        assert asked is not None
        return [
            SCORES[asked.definition].id,
            asked.decode,
            self._assets.vision(representation).fingerprint,
            self._assets.pairs_digest,
        ]

    def _pair_maps(self, representation: Representation, part: int) -> torch.Tensor:
        """An encoder's maps of the pairs' images: a combination costs nothing that its parts have not cost already."""
        from acsearch.scores.extract import extract

        alone = self._assets.vision(Representation((representation.parts[part],)))
        path = self._work / "pairs" / f"{digest([alone.fingerprint, self._assets.pairs_digest])[:SHORT]}.pt"
        self._have(path, lambda fresh: torch.save(extract(alone, self._assets.pairs)[0].cpu(), fresh))
        maps: torch.Tensor = torch.load(path, weights_only=True)
        return maps

    def _alignment(self, representation: Representation, result: Path) -> dict[str, Any]:
        from acsearch.scores.alignment import alignment_cos, alignment_ll
        from acsearch.scores.stage1 import caption_batches, choose, images
        from trainers.data.manifest import read_manifest

        asked, stage = self.training.alignment, self.training.align
        data = self._assets.data / asked.data
        references = [self._train(self._align_job(one), "reference") for one in self.training.references]

        def measure() -> dict[str, Any]:
            self._say("alignment")
            manifest = read_manifest(data, self._assets.data / stage.images if stage.images else None)
            samples = choose(manifest, asked.samples, self.training.seed)
            model = load_model(result, self._assets.device)
            if asked.definition == "A_cos":
                others = [load_model(path, self._assets.device) for path in references]
                return {"value": alignment_cos(model, others, images(manifest, samples)).value}
            batches = caption_batches(
                model, manifest, samples, template=stage.template, longest=stage.longest, batch_size=stage.micro_batch
            )
            found = alignment_ll(model, batches)
            return {
                "value": found.value,
                "standard_error": found.standard_error,
                "token_weighted": found.token_weighted,
            }

        return self._once("A", self._alignment_key(representation), measure)

    def _alignment_key(self, representation: Representation) -> list[str]:
        asked, representations = self.training.alignment, (representation, *self.training.references)
        names = [
            SCORES[asked.definition].id,
            str(asked.samples),
            str(self.training.seed),
            digest_of(self._assets.data / asked.data),
        ]
        return [*names, *(self._stage_folder(self._align_job(one)).name for one in representations)]

    def _once(self, what: str, key: Sequence[str], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A measurement, or what it gave before."""
        path = self._score_file(what, key)
        self._have(path, lambda fresh: fresh.write_text(json.dumps(measure(), indent=1)))
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept

    def _have(self, path: Path, write: Callable[[Path], object]) -> None:
        """A file that is here, or in the store, or is written now."""
        if not path.exists() and not self._store.pull_file(path):
            preemption.check()
            with atomic_write(path) as fresh:
                write(fresh)
        self._store.push_file(path)

    def _score_file(self, what: str, key: Sequence[str]) -> Path:
        return self._work / "scores" / f"{what}-{digest(key)[:SHORT]}.json"


@contextmanager
def _share_of_cores(parallel: int) -> Iterator[None]:
    """The threads of one process among several. Sums depend on their number, so it is the same all through a study."""
    whole = torch.get_num_threads()
    torch.set_num_threads(max(1, whole // parallel))
    try:
        yield
    finally:
        torch.set_num_threads(whole)
