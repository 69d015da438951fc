"""What candidates are made of and scored on, as a study file's `training` part names it: loaded once, with digests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from acsearch.config.training import TrainingConfig
from acsearch.scores.pairs import Pairs
from trainers.data.samples import Samples, read_samples
from trainers.data.templates import Tokenizer
from trainers.encoders import Registry, describe_encoder, load_registry
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.errors import ConfigError
from trainers.job import Stage
from trainers.model.loading import identify_llm, load_tokenizer, pin_llm
from trainers.representation import Representation
from trainers.utils.digest import SHORT, digest, digest_of
from trainers.utils.progress import Reporter, silent


class StudyAssets:
    """Encoders, language model, data and pairs of a study, each loaded when it is first asked for.

    Attributes:
        training: the `training` part of the study file.
    """

    def __init__(self, training: TrainingConfig, home: Path, work: Path) -> None:
        """
        Args:
            training: the `training` part of the study file.
            home: folder of the study file.
            work: the work folder, in which data is made.
        """
        self.training, self._home, self._work = training, home, work
        self._data: Path | None = None
        self._shapes: dict[Representation, VisionRepresentation] = {}

    @cached_property
    def registries(self) -> tuple[Path, ...]:
        return tuple(self._home / name for name in self.training.encoders)

    @cached_property
    def registry(self) -> Registry:
        return load_registry(*self.registries)

    def shape(self, representation: Representation) -> VisionRepresentation:
        """A vision representation without weights, which has the fingerprint of those."""
        alone = Representation(  # whatever the connector and the fusion
            representation.parts, representation.joining, framing=representation.framing
        )
        if alone not in self._shapes:
            parts = [describe_encoder(part, self.registry) for part in alone.parts]
            self._shapes[alone] = VisionRepresentation(parts, alone.joining, alone.framing)
        return self._shapes[alone]

    def vision(self, representation: Representation, device: torch.device, dtype: torch.dtype) -> VisionRepresentation:
        """A vision representation that computes."""
        return build_representation(representation, self.registry, device=device, dtype=dtype)

    @cached_property
    def llm(self) -> str:
        """A folder, or a name on the Hugging Face Hub with the commit."""
        local = self._home / self.training.llm
        return str(local) if local.is_dir() else pin_llm(self.training.llm)

    @cached_property
    def llm_identity(self) -> str:
        local = Path(self.llm)
        if not local.is_dir():
            return identify_llm(self.llm)
        return digest([digest_of(path) for path in sorted(local.iterdir()) if path.is_file()])

    @property
    def earlier_llm_identity(self) -> str | None:
        """What stood for a language model of the hub before its commit did; what was trained then stays trained."""
        return None if Path(self.llm).is_dir() else self.training.llm

    @property
    def data(self) -> Path:
        """The folder of the data, made if it has to be."""
        return self.prepare(silent)

    def prepare(self, report: Reporter) -> Path:
        """The folder of the data, made if it has to be.

        Args:
            report: is told how far the making is.

        Raises:
            ConfigError: the data is neither there nor can it be made.
        """
        if self._data is None:
            self._data = self._prepare(report)
        return self._data

    def _prepare(self, report: Reporter) -> Path:
        prepare = self.training.prepare
        if prepare is None:
            folder = self.training.data_folder(self._home)
            if folder is None:
                raise ConfigError(
                    f"data: no folder {self.training.data!r} beside the study file or below $ACSEARCH_DATA"
                )
            return folder
        module, function = prepare.call.split(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"prepare: {prepare.call} cannot be imported: {error}") from error
        folder = self._work / "data" / digest([prepare.model_dump_json()])[:SHORT]
        make(
            folder,
            seed=prepare.seed,
            sizes=prepare.sizes,
            progress=lambda done, of: report(f"making data, {done} of {of} images"),
        )
        return folder

    def samples(self, manifest: str, stage: Stage, tokenizer: Tokenizer, folder: Path, report: Reporter) -> Samples:
        """Samples of a manifest as a stage would train on them; their index is made where there is none yet.

        Args:
            manifest: relative to the data folder.
            stage: says how rows are read, and which may be left out.
            tokenizer: the language model's.
            folder: where indices are kept.
            report: is told how far the index is.

        Raises:
            DataError: there are rows that cannot be trained on.
        """
        return read_samples(
            self.data / manifest,
            self.data / stage.images if stage.images else None,
            template=stage.template,
            tokenizer=tokenizer,
            folder=folder,
            drop=stage.max_dropped if stage.on_bad_sample == "drop" else None,
            report=report,
        )

    def all_samples(self, folder: Path, report: Reporter) -> Iterator[Samples]:
        """Samples of both stages, and those that A is measured on, as `samples` gives them."""
        training, tokenizer = self.training, load_tokenizer(self.llm)
        self.prepare(report)
        wanted = {one.data: one for one in (training.align, training.finetune)}
        for manifest, stage in ({training.alignment.data: training.align} | wanted).items():
            yield self.samples(manifest, stage, tokenizer, folder, report)

    @cached_property
    def pairs(self) -> Pairs:
        from acsearch.scores.pairs import read_pairs

        assert self.training.correspondence is not None
        return read_pairs(self.data / self.training.correspondence.pairs)

    @cached_property
    def pairs_digest(self) -> str:
        pairs = self.pairs
        arrays = (pairs.sizes, pairs.source, pairs.target, pairs.source_points, pairs.target_points, pairs.boxes)
        groups = [] if pairs.geometry is None else [pairs.geometry.tobytes().hex()]
        return digest([array.tobytes().hex() for array in arrays] + groups + [digest_of(p) for p in pairs.images])
