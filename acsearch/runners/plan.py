"""What a study will run, and what that takes: operations, hours, memory and disk, from shapes alone.

Nothing is downloaded, trained or written: models are built without weights. Training is reckoned at a stated share of
the hardware's peak, so hours are as good as that share; evaluation with lmms-eval comes on top.
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

from acsearch.config.study_file import StudyConfig
from acsearch.config.training import Hardware, TrainingConfig
from trainers.connectors.base import connector_class
from trainers.data.manifest import conversation, open_manifest
from trainers.encoders import Encoder, load_registry, make_encoder
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import ConfigError, DataError, TrainingError
from trainers.job import Expect, Stage
from trainers.model.flops import ModelShape, stage_memory, training_flops
from trainers.model.loading import llm_config, llm_shape
from trainers.representation import Part, Representation

_LLMS = Path(str(resources.files("trainers.model"))) / "llms.yaml"
_SHARE = 0.35  # of a measured matrix product's speed that tiny models reach on a CPU
_WORDS = 1.3  # tokens of a word


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
        align: stage 1.
        finetune: stage 2.
    """

    representation: str
    grid: tuple[int, int]
    width: int
    tokens: int
    weights: int
    align: Work
    finetune: Work


@dataclass(frozen=True)
class Plan:
    """What a study takes.

    Attributes:
        study: its name.
        budget: finetunes.
        hardware: that hours and memory are for.
        llm_weights: of the language model.
        candidates: in the order of the study file.
        scoring: hours for A and C of all candidates.
        finetuning: hours for a budget of average candidates.
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
    training = config.file.training
    if training is None:
        raise ConfigError(f"study {config.file.name!r} looks its finetunes up in a table; there is nothing to plan")
    home = config.path.parent
    hardware = training.hardware or this_machine()
    llm = _llm_config(training.llm, home)
    expected = {stage.data: _expect(training, stage, home) for stage in (training.align, training.finetune)}
    registry = load_registry(*(home / name for name in training.encoders))
    candidates, weights = [], ModelShape.of_llm(llm_shape(llm))
    disk = 0.0
    cached: dict[tuple[Part, str], float] = {}
    encoders: dict[Part, Encoder] = {}
    for representation in training.representations:
        for part in representation.parts:
            if part not in encoders:
                encoders[part] = make_encoder(part, registry, device="meta")
        vision = VisionRepresentation([encoders[part] for part in representation.parts], representation.joining)
        shape, tokens, size = _shape(vision, representation, llm, weights)
        works = []
        for stage in (training.align, training.finetune):
            wanted = expected[stage.data]
            flops = wanted.samples * stage.epochs * training_flops(shape, stage, wanted.text_tokens)
            speed = hardware.gpus * hardware.tflops * 1e12 * hardware.utilisation
            memory = stage_memory(shape, stage, hardware.gpus, wanted.text_tokens)
            works.append(Work(flops, flops / speed / 3600, memory / 1e9))
            if stage.cache_features:
                for part in representation.parts:
                    size_of_map = encoders[part].grid[0] * encoders[part].grid[1] * encoders[part].width
                    cached[part, stage.data] = 4.0 * wanted.samples * size_of_map
        disk += 4.0 * size
        name = representation.name(training.default_connector)
        candidates.append(CandidatePlan(name, vision.grid, vision.width, tokens, size, works[0], works[1]))
    hours = sorted((one.finetune.hours for one in candidates), reverse=True)
    checkpoints = 1 + 3 * 2 if training.finetune.checkpoint_every else 1  # a result, and two with their optimizer
    disk += sum(cached.values()) + 4.0 * weights.llm * (budget + checkpoints - 1)
    return Plan(
        study=config.file.name,
        budget=budget,
        hardware=hardware,
        llm_weights=weights.llm,
        candidates=tuple(candidates),
        scoring=sum(one.align.hours for one in candidates),
        finetuning=budget * sum(hours) / len(hours),
        finetuning_most=sum(hours[:budget]),
        everything=sum(hours),
        memory_gb=max(work.memory_gb for one in candidates for work in (one.align, one.finetune)),
        disk_gb=disk / 1e9,
    )


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
        if llm not in known:
            raise ConfigError(
                f"llm {llm}: no such folder, not in the hub's cache, and of unknown shape; known: {', '.join(known)}"
            ) from error
        from transformers import AutoConfig

        return AutoConfig.for_model(**known[llm])


def _shape(
    vision: VisionRepresentation, representation: Representation, config: Any, llm: ModelShape
) -> tuple[ModelShape, int, int]:
    """Shape of the whole model, its tokens of an image, and the connector's weights."""
    choice = representation.connector
    with torch.device("meta"):
        connector = connector_class(choice.kind)(vision.grid, vision.width, config.hidden_size, choice.option)
    size = sum(weight.numel() for weight in connector.parameters())
    return llm.with_vision(vision, connector), connector.tokens, size
