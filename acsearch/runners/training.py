"""The way of a candidate that trains.

    score      reference models (for A_cos)  ->  C, from the encoders' features alone
               ->  stage 1, the connector  ->  A
    finetune   stage 2, the connector and the language model  ->  evaluation on the benchmarks

Each step looks for what it would make in the work folder and in the work store first; see
`acsearch.runners.work_folder`. Stages, scores and evaluations are done by ranks, `processes` of them, and this process
only starts and watches them: it touches no GPU and holds no model. Where that is a single process on a machine without
a GPU, it does them itself; see `trainers.ranks.launch.apart`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from acsearch.config.study_file import StudyConfig
from acsearch.runners.base import CandidateScores, Measurement, Observation, Progress
from acsearch.runners.measurements import Measurements
from acsearch.runners.plan import plan_finetune
from acsearch.runners.score_request import Score, ScoreRequest
from acsearch.runners.work_folder import WorkFolder
from evals.benchmarks import benchmark
from evals.launch import evaluate_result
from evals.request import EvaluationRequest
from trainers.checkpoints.commit import RESULT, committed
from trainers.checkpoints.work_store import Store, open_store
from trainers.job import Job
from trainers.model.loading import METRICS
from trainers.model.precision import precision
from trainers.ranks import preemption
from trainers.ranks.launch import Task, apart, launch_ranks
from trainers.representation import Representation
from trainers.training.launch import launch
from trainers.utils.progress import StepLine


class TrainingRunner:
    """The runner of a study that trains; see `acsearch.runners.base.Runner`."""

    def __init__(self, config: StudyConfig, work: Path, store: str | None = None) -> None:
        """
        Args:
            config: of a study that trains.
            work: the work folder.
            store: fsspec URL of the work store that shares the folder among machines; None for none.

        Raises:
            StoreError: the work store cannot be used.
        """
        self._folder = WorkFolder.of(config, work, store)
        open_store(self._folder.shared)  # an address that cannot be is refused before anything is done

    def score(self, candidate: int, progress: Progress) -> CandidateScores:
        started, training = time.perf_counter(), self._folder.training
        step = self._steps(candidate, progress)
        with _share_of_cores(training.parallel):
            step.reference_models()
            c = step.correspondence() if training.correspondence else None
            step.connector()
            a = step.alignment()
        step.store.drain()  # whoever reads the scores can have the files behind them
        return CandidateScores(
            alignment=(a.value,) * len(training.benchmarks),
            correspondence=None if c is None else c.value,
            seconds=time.perf_counter() - started,
            details=_named("A", a) | ({} if c is None else _named("C", c)),
        )

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        step = self._steps(candidate, progress)
        step.connector()  # done already, unless another machine scored the candidate
        model = step.finetuned({"trial": str(trial)} | ({"mlflow_run": run} if run else {}))
        preemption.check()
        observation = step.evaluation(model)
        step.store.drain()
        return observation

    def _steps(self, candidate: int, progress: Progress) -> _Steps:
        representation = self._folder.training.representations[candidate]
        self._folder.assets.prepare(progress.report)
        store = open_store(self._folder.shared, progress.report)
        store.check()  # before anything is trained that could not be kept
        return _Steps(self._folder, representation, store, progress)


class _Steps:
    """The steps of one candidate; each returns what it made, or what is there of an earlier time."""

    def __init__(self, folder: WorkFolder, representation: Representation, store: Store, progress: Progress) -> None:
        self.store = store
        self._folder, self._representation, self._progress = folder, representation, progress
        self._training, self._assets = folder.training, folder.assets

    # -- training ------------------------------------------------------------------------------------------------------

    def reference_models(self) -> None:
        """Stage 1 of the representations that A_cos compares with."""
        for one in self._training.references:
            self._train(self._folder.align_job(one), "reference")

    def connector(self) -> Path:
        """Stage 1."""
        return self._train(self._folder.align_job(self._representation), "connector")

    def finetuned(self, labels: dict[str, str]) -> Path:
        """Stage 2."""
        job, folder = self._folder.finetune_job(self._representation), self._folder.stage
        if not committed(folder(job) / RESULT):
            planned = plan_finetune(self._training, self._folder.home, self._representation)
            job = job.model_copy(update={"labels": labels, "planned": planned})
        return self._train(job, "finetune")

    def _train(self, job: Job, what: str) -> Path:
        """The committed result of a stage."""

        line = StepLine(what)

        def on_step(step: int, steps: int, loss: float) -> None:
            self._progress.heartbeat()
            self._progress.report(line(step, steps, loss))

        processes = self._training.processes
        result = launch(job, self._folder.stage(job), processes, on_step, self._progress.report)
        self.store.push(result, keep=0)  # where processes of their own did not come to it
        return result

    # -- scores --------------------------------------------------------------------------------------------------------

    def correspondence(self) -> Measurement:
        """C."""
        return self._measured("correspondence", self._folder.correspondence_file(self._representation))

    def alignment(self) -> Measurement:
        """A, on the models of stage 1."""
        return self._measured("alignment", self._folder.alignment_file(self._representation))

    def _measured(self, score: Score, path: Path) -> Measurement:
        """A score, or what it was before."""
        self._progress.heartbeat()
        if not path.exists() and not self.store.pull_file(path):
            preemption.check()
            self._progress.report(score)
            self._measure(score, path)
        self.store.push_file(path)
        return Measurement.from_json(json.loads(path.read_text()))

    def _measure(self, score: Score, path: Path) -> None:
        folder, progress, processes = self._folder, self._progress, self._training.processes
        if apart(processes):
            request = ScoreRequest(
                score=score,
                representation=str(self._representation),
                training=self._training,
                home=folder.home,
                work=folder.path,
                store=folder.shared.url if folder.shared else None,
            )
            task = Task(score, "acsearch.runners", request, folder.ranks(path), path.exists)
            launch_ranks(task, processes, progress.heartbeat, progress.report)
            return

        def check() -> None:
            preemption.check()
            progress.heartbeat()

        measurements = Measurements(folder, self._representation, self.store, check=check)
        measurements.correspondence() if score == "correspondence" else measurements.alignment()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def evaluation(self, model: Path) -> Observation:
        """The benchmarks' scores of a finetuned model."""

        asked = self._training.evaluation
        request = EvaluationRequest(
            checkpoint=model,
            precision=precision(self._training.finetune.precision),
            benchmarks=tuple(benchmark(name) for name in self._training.benchmarks),
            batch_size=asked.batch_size,
            limit=asked.limit,
            cache=self._folder.path / "answers",
            data={name: self._assets.data / path for name, path in asked.data.items()},
            store=self._folder.shared,
        )
        evaluation = evaluate_result(
            request,
            model.parent / "eval",
            self._training.processes,
            watch=self._progress.heartbeat,
            report=self._progress.report,
            store=self.store,
        )
        trained = json.loads((model / METRICS).read_text())["seconds"]
        return Observation(
            scores={name: score.points for name, score in evaluation.scores.items()},
            errors={name: score.standard_error for name, score in evaluation.scores.items()},
            seconds=trained + evaluation.seconds,
            checkpoint=self.store.address(model),
        )


def _named(score: str, measured: Measurement) -> dict[str, float]:
    return {f"{score}/{key}": value for key, value in measured.to_json().items()}


@contextmanager
def _share_of_cores(parallel: int) -> Iterator[None]:
    """The threads of one process among several. Sums depend on their number, so it is the same all through a study."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // parallel))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
