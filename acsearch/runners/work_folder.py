"""The work folder of studies that train: what everything in it is called, and the jobs of the two stages.

    data/<digest>/                    what `prepare` made
    index/<key>/                      a manifest's samples, tokenised, and what is known of their images
    features/                         maps of frozen encoders, for whoever trains on the same images
    pairs/<key>.pt                    maps of an encoder on the pairs of correspondence
    stages/<job digest>/              a stage of training: checkpoints, then `result/`, and the log of its metrics
    stages/<job digest>/eval/         scores and samples of each benchmark
    scores/<key>.json                 A or C, with what else was measured
    ranks/<key>/                      request and log of the processes that measured it

Everything is named by what it depends on, so nothing is done twice: not after a crash, and not for another study that
has the same candidate. A work store (`trainers.checkpoints.work_store`) shares all of it but the data among machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acsearch.config.study_file import StudyConfig
from acsearch.config.training import TrainingConfig
from acsearch.runners.assets import StudyAssets
from acsearch.scores import SCORES
from trainers.framings.square import LETTERBOX, POLICIES
from trainers.job import Job, Parts, Shared, Stage
from trainers.representation import Choice, Representation
from trainers.training.train import RESULT
from trainers.utils.digest import SHORT, digest, digest_of


class WorkFolder:
    """Names in the work folder, for the candidates of one study.

    Attributes:
        path: the folder, absolute.
        training: the `training` part of the study file.
        home: folder of the study file, absolute.
        assets: what candidates are made of.
        shared: the work store that shares the folder; None for none.
    """

    def __init__(self, training: TrainingConfig, home: Path, path: Path, store: str | None = None) -> None:
        """
        Args:
            training: the `training` part of the study file.
            home: folder of the study file.
            path: the work folder.
            store: fsspec URL of the work store; None for none.
        """
        self.path, self.training, self.home = path.absolute(), training, home.absolute()
        self.assets = StudyAssets(training, home, self.path)
        self.shared = Shared(url=store, root=self.path) if store else None

    @classmethod
    def of(cls, config: StudyConfig, path: Path, store: str | None = None) -> WorkFolder:
        """The names for a study that trains; arguments as above."""
        assert config.file.training is not None
        return cls(config.file.training, config.path.parent, path, store)

    @property
    def index(self) -> Path:
        """The folder of the indices of manifests."""
        return self.path / "index"

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def align_job(self, representation: Representation) -> Job:
        """Stage 1: the connector, with the language model frozen."""
        return self._job(representation, self.training.align, start=None)

    def finetune_job(self, representation: Representation) -> Job:
        """Stage 2: the connector and the language model, from the result of stage 1."""
        return self._job(representation, self.training.finetune, start=self.align_job(representation))

    def stage(self, job: Job) -> Path:
        """The folder of a job's checkpoints, result and logs."""
        return self.path / "stages" / job.digest[:SHORT]

    def _job(self, representation: Representation, stage: Stage, start: Job | None) -> Job:
        if earlier := self.assets.earlier_llm_identity:
            job = self._job_of(earlier, representation, stage, start)
            if (self.stage(job) / RESULT).is_dir():
                return job
        return self._job_of(self.assets.llm_identity, representation, stage, start)

    def _job_of(self, llm_identity: str, representation: Representation, stage: Stage, start: Job | None) -> Job:
        assets = self.assets
        data = assets.data / stage.data
        framing = str(representation.framing)
        resize = framing if framing in POLICIES else LETTERBOX  # what is no square is part of the name
        content = [assets.shape(representation).fingerprint, llm_identity, digest_of(data)]
        content += [start.digest] if start else []
        return Job(
            parts=Parts(
                representation=representation.name(Choice(resize)),
                llm=assets.llm,
                template=self.training.template,
                encoders=assets.registries,
                resize=resize,
                seed=self.training.seed,
            ),
            stage=stage,
            data=data,
            images=assets.data / stage.images if stage.images else None,
            start=self.stage(start) / RESULT if start else None,
            seed=self.training.seed,
            identity=digest(content),
            features=self.path / "features",
            index=self.index,
            store=self.shared,
        )

    # -- scores --------------------------------------------------------------------------------------------------------

    def alignment_file(self, representation: Representation) -> Path:
        """Where A is kept."""
        asked, representations = self.training.alignment, (representation, *self.training.references)
        data = digest_of(self.assets.data / asked.data)
        key = [SCORES[asked.definition].id, str(asked.samples), str(self.training.seed), data]
        return self._score_file("A", [*key, *(self.stage(self.align_job(one)).name for one in representations)])

    def correspondence_file(self, representation: Representation) -> Path:
        """Where C is kept."""
        asked = self.training.correspondence
        assert asked is not None
        fingerprint = self.assets.shape(representation).fingerprint
        return self._score_file("C", [SCORES[asked.definition].id, asked.decode, fingerprint, self.assets.pairs_digest])

    def pair_maps_file(self, representation: Representation) -> Path:
        """Where an encoder's maps of the pairs' images are kept."""
        fingerprint = self.assets.shape(representation).fingerprint
        return self.path / "pairs" / f"{digest([fingerprint, self.assets.pairs_digest])[:SHORT]}.pt"

    def ranks(self, score: Path) -> Path:
        """The folder of the processes that measure what is kept in a file."""
        return self.path / "ranks" / score.stem

    def _score_file(self, what: str, key: Sequence[str]) -> Path:
        return self.path / "scores" / f"{what}-{digest(key)[:SHORT]}.json"
