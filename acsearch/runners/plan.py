"""What a study will run, and what that takes: operations, hours, memory and disk, from shapes alone.

Nothing is downloaded, trained or written: models are built without weights. All work is reckoned at a stated share of
the hardware's peak, so hours are as good as that share.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from pyarrow import parquet

from acsearch.config.study_file import StudyConfig
from acsearch.config.training import Hardware, TrainingConfig
from evals.benchmarks import benchmark
from trainers.connectors.branches import make_branches
from trainers.data.manifest import conversation, open_manifest
from trainers.encoders import Encoder, load_registry, make_encoder
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import ConfigError, DataError, TrainingError
from trainers.job import Expect, Planned, Stage
from trainers.model.flops import ModelShape, forward_flops, training_flops
from trainers.model.loading import llm_config, llm_shape
from trainers.model.memory import MicroBatch, choose_recompute, stage_memory
from trainers.representation import Part, Representation

_LLMS = Path(str(resources.files("trainers.model"))) / "llms.yaml"
_SHARE = 0.35  # of a measured matrix product's speed that tiny models reach on a CPU
_WORDS = 1.3  # tokens of a word
_QUESTION, _ANSWER = 60, 4  # tokens of a benchmark's question and of its answer
_SPAIR_IMAGES = 1_800  # of SPair-71k (arXiv 1908.10543), where the pairs are not there yet
_INDEX_SECONDS = 1e-3  # of one core for a sample of 450 tokens and its image: measured on LLaVA's mixture


@dataclass(frozen=True)
class Work:
    """What one stage of one candidate takes.

    Attributes:
        flops: of the whole stage.
        hours: on the hardware of the plan.
        memory_gb: of one process.
    """

    flops: float
    hours: float
    memory_gb: float


@dataclass(frozen=True)
class CandidatePlan:
    """What one candidate takes.

    Attributes:
        representation: its name.
        grid: (height, width) of the features that the connector receives.
        width: channels of these.
        tokens: of an image, as the language model sees it.
        weights: of the connector.
        scores: hours for A and C, without stage 1.
        align: stage 1.
        finetune: stage 2.
        evaluation: hours for all benchmarks.
    """

    representation: str
    grid: tuple[int, int]
    width: int
    tokens: int
    weights: int
    scores: float
    align: Work
    finetune: Work
    evaluation: float

    @property
    def scoring_hours(self) -> float:
        """Hours for A and C, with stage 1."""
        return self.align.hours + self.scores

    @property
    def finetune_hours(self) -> float:
        """Hours of one finetune, with its evaluation."""
        return self.finetune.hours + self.evaluation


@dataclass(frozen=True)
class Plan:
    """What a study takes.

    Attributes:
        study: its name.
        budget: finetunes.
        hardware: that hours and memory are for.
        llm_weights: of the language model.
        candidates: in the order of the study file.
        index: hours of one core, once, before the first stage of the first candidate.
        scoring: hours for A and C of all candidates.
        finetuning: hours for a budget of average candidates, with their evaluation.
        finetuning_most: hours for a budget of those that take longest.
        everything: hours if every candidate were finetuned.
        memory_gb: of the process that needs most.
        disk_gb: features, if they are cached, results and checkpoints.
    """

    study: str
    budget: int
    hardware: Hardware
    llm_weights: int
    candidates: tuple[CandidatePlan, ...]
    index: float
    scoring: float
    finetuning: float
    finetuning_most: float
    everything: float
    memory_gb: float
    disk_gb: float


def plan(config: StudyConfig, budget: int) -> Plan:
    """What a study takes, from the shapes of its models and the sizes of its data.

    Args:
        config: of a study that trains.
        budget: finetunes.

    Raises:
        ConfigError: the shape of a model or the size of a data set is not known.
        SpaceError: there is no such encoder.
    """
    if config.file.training is None:
        raise ConfigError(f"study {config.file.name!r} looks its finetunes up in a table; there is nothing to plan")
    planner = _Planner(config.file.training, config.path.parent)
    candidates = tuple(planner.candidate(one) for one in planner.training.representations)
    hours = sorted((one.finetune_hours for one in candidates), reverse=True)
    samples = {data: expected.samples for data, expected in planner.expected.items()}
    return Plan(
        study=config.file.name,
        budget=budget,
        hardware=planner.hardware,
        llm_weights=planner.llm.llm,
        candidates=candidates,
        index=sum(samples.values()) * _INDEX_SECONDS / 3600,
        scoring=sum(one.scoring_hours for one in candidates),
        finetuning=budget * sum(hours) / len(hours),
        finetuning_most=sum(hours[:budget]),
        everything=sum(hours),
        memory_gb=max(work.memory_gb for one in candidates for work in (one.align, one.finetune)),
        disk_gb=planner.disk(budget, sum(one.weights for one in candidates)) / 1e9,
    )


def plan_finetune(training: TrainingConfig, home: Path, representation: Representation) -> Planned | None:
    """What stage 2 of one candidate takes; None where the shape of a model or the size of a data set is not known.

    Args:
        training: the `training` part of a study file.
        home: folder of the study file.
        representation: the candidate.
    """
    try:
        work = _Planner(training, home).candidate(representation).finetune
    except ConfigError:
        return None
    return Planned(hours=work.hours, memory_gb=work.memory_gb)


class _Planner:
    """What all candidates of a study have in common, and what each takes.

    Attributes:
        training: the `training` part of the study file.
        hardware: that hours and memory are for.
        llm: the language model's shape.
        expected: size of each manifest.
    """

    def __init__(self, training: TrainingConfig, home: Path) -> None:
        self.training = training
        self.hardware = self.training.hardware or this_machine()
        self._llm_config = _llm_config(self.training.llm, home)
        self.llm = ModelShape.of_llm(llm_shape(self._llm_config))
        stages = (self.training.align, self.training.finetune)
        self.expected = {stage.data: _expect(self.training, stage, home) for stage in stages}
        self._questions = _questions(self.training, home)
        self._images = _pair_images(self.training, home)
        self._registry = load_registry(*(home / name for name in self.training.encoders))
        self._encoders: dict[Part, Encoder] = {}

    def candidate(self, representation: Representation) -> CandidatePlan:
        """What one candidate takes."""
        for part in representation.parts:
            if part not in self._encoders:
                self._encoders[part] = make_encoder(part, self._registry, device="meta")
        encoders = [self._encoders[part] for part in representation.parts]
        vision = VisionRepresentation(encoders, representation.joining, representation.framing)
        shape, tokens, weights = _shape(vision, representation, self._llm_config, self.llm)
        caption = self.expected[self.training.align.data].text_tokens
        scores = self.training.alignment.samples * forward_flops(shape, caption, caption) + self._images * shape.encode
        answers = self._questions * forward_flops(shape, _QUESTION + _ANSWER, _ANSWER)
        return CandidatePlan(
            representation=representation.name(*self.training.defaults),
            grid=vision.grid,
            width=vision.width,
            tokens=tokens,
            weights=weights,
            scores=self._hours(scores),
            align=self._work(self.training.align, shape),
            finetune=self._work(self.training.finetune, shape),
            evaluation=self._hours(answers),
        )

    def disk(self, budget: int, connectors: int) -> float:
        """Bytes of features, if they are cached, of results and of checkpoints.

        Args:
            budget: finetunes.
            connectors: weights of all candidates' connectors.
        """
        features = 0.0
        for stage in (self.training.align, self.training.finetune):
            if stage.cache_features:
                maps = sum(one.grid[0] * one.grid[1] * one.width for one in self._encoders.values())
                features += 4.0 * self.expected[stage.data].samples * maps
        checkpoints = 3 * 2 if self.training.finetune.checkpoint_every else 0  # two, with their optimizer
        return features + 4.0 * connectors + 4.0 * self.llm.llm * (budget + checkpoints)

    def _work(self, stage: Stage, shape: ModelShape) -> Work:
        wanted = self.expected[stage.data]
        largest = MicroBatch.largest(stage, shape.image_tokens, wanted.text_tokens)
        half = stage.precision == "bf16" or (stage.precision == "auto" and self.hardware.kind == "GPU")
        if stage.recompute == "auto":
            room = self.hardware.memory_gb * 1e9
            kind = choose_recompute(shape, stage, self.hardware.gpus, largest, half=half, memory=room)
            stage = stage.model_copy(update={"recompute": kind})
        flops = wanted.samples * stage.epochs * training_flops(shape, stage, wanted.text_tokens)
        memory = stage_memory(shape, stage, self.hardware.gpus, largest, half=half)
        return Work(flops, self._hours(flops), memory / 1e9)

    def _hours(self, flops: float) -> float:
        hardware = self.hardware
        return flops / (hardware.gpus * hardware.tflops * 1e12 * hardware.utilisation) / 3600


def _questions(training: TrainingConfig, home: Path) -> int:
    """Questions of all benchmarks: of local data as many as it has, else as published, and no more than the limit."""
    folder, count = training.data_folder(home), 0
    for name in training.benchmarks:
        local = training.evaluation.data.get(name)
        path = None if folder is None or local is None else folder / local
        known = benchmark(name).questions
        if path is not None and path.suffix == ".parquet" and path.is_file():
            known = int(parquet.read_metadata(path).num_rows)
        elif known is None and training.prepare is not None:
            known = training.prepare.sizes.get("per_benchmark")
        limit = training.evaluation.limit
        count += min(known or limit or 0, limit or known or 0)
    return count


def _pair_images(training: TrainingConfig, home: Path) -> int:
    """Images that C looks at."""
    if training.correspondence is None:
        return 0
    folder = training.data_folder(home)
    pictures = None if folder is None else folder / training.correspondence.pairs / "JPEGImages"
    if pictures is not None and pictures.is_dir():
        return sum(1 for _ in pictures.glob("*/*"))
    sizes = {} if training.prepare is None else training.prepare.sizes
    return sizes.get("pair_images", _SPAIR_IMAGES)


def this_machine() -> Hardware:
    """The GPUs that are here; without one, the CPU at the speed of a matrix product."""
    if torch.cuda.is_available():
        from trainers.model.flops import peak_flops

        properties = torch.cuda.get_device_properties(0)
        peak = peak_flops(torch.device("cuda:0")) or 100e12
        memory = properties.total_memory / 1e9
        return Hardware(name=properties.name, gpus=torch.cuda.device_count(), tflops=peak / 1e12, memory_gb=memory)
    left, right = torch.ones(512, 512), torch.ones(512, 512)
    left @ right
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        left @ right
        count += 1
    tflops = count * 2 * 512**3 / (time.perf_counter() - began) / 1e12
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    name = f"this machine's CPU, {torch.get_num_threads()} threads"
    return Hardware(name=name, kind="CPU", gpus=1, tflops=tflops, memory_gb=memory, utilisation=_SHARE)


def _expect(training: TrainingConfig, stage: Stage, home: Path) -> Expect:
    """Size of a stage's data: of the manifest if it is here, else as the study file expects."""
    folder = training.data_folder(home)
    if folder is not None and (folder / stage.data).is_file():
        words, samples = [], 0
        for samples, row in enumerate(open_manifest(folder / stage.data), 1):
            if samples % 97 == 1:
                words.append(sum(len(turn.text.split()) for turn in conversation(row)[0]))
        if not samples:
            raise DataError(f"{folder / stage.data}: no sample in it")
        return Expect(samples=samples, text_tokens=max(1, round(_WORDS * sum(words) / len(words))))
    if stage.expect is None:
        raise ConfigError(f"{stage.data}: is not there yet, and its stage does not say what to expect: {{samples, ..}}")
    return stage.expect


def _llm_config(llm: str, home: Path) -> Any:
    """A model's configuration: from its folder, the cache of the hub, or the table of known shapes."""
    folder = home / llm
    try:
        return llm_config(str(folder) if folder.is_dir() else llm)
    except TrainingError as error:
        known = yaml.safe_load(_LLMS.read_text(encoding="utf-8"))
        if folder.is_dir():
            raise ConfigError(str(error)) from error
        name = llm.partition("@")[0]
        if name not in known:
            raise ConfigError(
                f"llm {llm}: no such folder, not in the hub's cache, and of unknown shape; known: {', '.join(known)}"
            ) from error
        from transformers import AutoConfig

        return AutoConfig.for_model(**known[name])


def _shape(
    vision: VisionRepresentation, representation: Representation, config: Any, llm: ModelShape
) -> tuple[ModelShape, int, int]:
    """Shape of the whole model, its tokens of an image, and the connector's weights."""
    connector = make_branches(
        representation.connector,
        vision.framing,
        vision.joining,
        vision.shapes,
        config.hidden_size,
        seed=None,
    )
    size = sum(weight.numel() for weight in connector.parameters())
    shape = llm.with_vision(vision, connector)
    return shape, shape.image_tokens, size
