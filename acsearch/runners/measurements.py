"""A and C of a candidate as its study file asks for them: measured, or found where they were measured before.

One process measures them, or several ranks that share the images and captions batch by batch. What ranks computed is
put together in its order, so the numbers do not depend on how many ranks there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from acsearch.runners.base import Measurement
from acsearch.runners.work_folder import WorkFolder
from acsearch.scores import extract
from acsearch.scores.alignment import batch_likelihood, cosine_of, cosine_sums, likelihood_of
from acsearch.scores.compat import compat_correspondence
from acsearch.scores.correspondence import correspondence
from acsearch.scores.pck import CorrespondenceResult
from acsearch.scores.stage1 import caption_batches, choose, images
from trainers.checkpoints.work_store import Store
from trainers.data.samples import Samples, read_samples
from trainers.encoders.joined import VisionRepresentation
from trainers.model.multimodal import MultimodalModel
from trainers.model.precision import dtype_of, precision
from trainers.model.ranks import load_on_rank
from trainers.ranks.group import ALONE, Group, rank_device
from trainers.representation import Choice, Representation
from trainers.training.train import RESULT
from trainers.utils.atomic import atomic_write
from trainers.utils.progress import Reporter, silent

T = TypeVar("T")
_IMAGES = 16  # at a time


class Measurements:
    """Measures A and C of one candidate. All ranks call the same methods; what is kept is written by the first."""

    def __init__(
        self,
        folder: WorkFolder,
        representation: Representation,
        store: Store,
        *,
        group: Group = ALONE,
        check: Callable[[], None] = lambda: None,
        report: Reporter = silent,
    ) -> None:
        """
        Args:
            folder: names of files.
            representation: of the candidate.
            store: the work store that shares the folder.
            group: the ranks that measure together.
            check: is called between batches; what it raises ends the measurement.
            report: is called with how far it is, on every rank of its own share.
        """
        self._folder, self._training, self._assets = folder, folder.training, folder.assets
        self._representation, self._store, self._group = representation, store, group
        self._check, self._report = check, report
        self._device, self._precision = rank_device(), precision(folder.training.align.precision)

    def correspondence(self) -> None:
        """Keep C in its file."""
        asked = self._training.correspondence
        assert asked is not None
        path = self._agreed(lambda: self._folder.correspondence_file(self._representation))
        self._ensure(path, self._compat if asked.definition == "C_compat" else self._correspondence, _write)

    def alignment(self) -> None:
        """Keep A in its file. The stage-1 models that it is measured on must be there."""
        cosine = self._training.alignment.definition == "A_cos"
        path = self._agreed(lambda: self._folder.alignment_file(self._representation))
        self._ensure(path, self._cosine if cosine else self._likelihood, _write)

    # -- C -------------------------------------------------------------------------------------------------------------

    def _correspondence(self) -> Measurement | None:
        """On what the connector receives, in percent."""
        shape = self._assets.shape(self._representation).in_squares
        square = Choice(shape.policy)
        paths = [self._pair_maps(Representation((part,), framing=square)) for part in self._representation.parts]
        if not self._group.first:
            return None
        asked = self._training.correspondence
        assert asked is not None
        maps = [torch.load(path, weights_only=True, map_location=self._device) for path in paths]
        found = correspondence(
            extract.on_grid(maps, shape.joining),
            self._assets.pairs,
            extract.frames(shape, self._assets.pairs),
            decode=asked.decode,
            extent=extract.extent(shape),
        )
        return _measurement(found)

    def _pair_maps(self, encoder: Representation) -> Path:
        """The file of an encoder's maps of the pairs' images: a combination costs nothing that its parts cost before.

        It holds a tensor (images, height, width, channels).
        """

        def make() -> list[torch.Tensor]:
            return self._extract(self._assets.vision(encoder, self._device, dtype_of(self._precision)))

        path = self._agreed(lambda: self._folder.pair_maps_file(encoder))
        self._ensure(path, make, lambda maps, fresh: torch.save(maps[0].cpu(), fresh))
        return path

    def _compat(self) -> Measurement | None:
        """As the AC law's authors compute it, in percent."""
        vision = extract.compat_vision(
            self._representation, self._assets.registry, device=self._device, dtype=dtype_of(self._precision)
        )
        maps = self._extract(vision)
        if not self._group.first:
            return None
        return _measurement(compat_correspondence(extract.on_grid(maps, vision.joining), self._assets.pairs))

    def _extract(self, vision: VisionRepresentation) -> list[torch.Tensor]:
        return extract.extract(
            vision, self._assets.pairs, batch_size=_IMAGES, progress=self._progress, group=self._group
        )

    # -- A -------------------------------------------------------------------------------------------------------------

    def _likelihood(self) -> Measurement | None:
        """A_ll, in nats per token."""
        model, stage = self._model(self._representation), self._training.align
        samples, chosen = self._captions(model)
        made, share = [], self._group.share(range(0, len(chosen), stage.micro_batch))
        for batch in caption_batches(
            model, samples, chosen, longest=stage.longest, batch_size=stage.micro_batch, group=self._group
        ):
            made.append(batch_likelihood(model, batch))
            self._progress(len(made), len(share))
        batches = self._group.gather(made)
        if not self._group.first:
            return None
        found = likelihood_of(batches)
        return Measurement(found.value, found.standard_error, {"token_weighted": found.token_weighted})

    def _cosine(self) -> Measurement | None:
        """A_cos."""
        model, references = self._model(self._representation), [self._model(one) for one in self._training.references]
        samples, chosen = self._captions(model)
        made, share = [], self._group.share(range(0, len(chosen), _IMAGES))
        for start in share:
            made.append(cosine_sums(model, references, images(samples, chosen[start : start + _IMAGES])))
            self._progress(len(made), len(share))
        sums = self._group.gather(made)
        return Measurement(cosine_of(sums, len(chosen)).value) if self._group.first else None

    def _model(self, representation: Representation) -> MultimodalModel:
        """The model after stage 1."""
        stage = self._agreed(lambda: self._folder.stage(self._folder.align_job(representation)))
        return load_on_rank(stage / RESULT, self._precision, self._store, self._group)

    def _captions(self, model: MultimodalModel) -> tuple[Samples, list[int]]:
        """Samples, and which of them A is measured on."""
        asked, stage = self._training.alignment, self._training.align
        samples = read_samples(
            self._assets.data / asked.data,
            self._assets.data / stage.images if stage.images else None,
            template=stage.template,
            tokenizer=model.tokenizer,
            folder=self._folder.index,
            drop=stage.max_dropped if stage.on_bad_sample == "drop" else None,
        )
        return samples, choose(samples, asked.samples, self._training.seed)

    # -- files ---------------------------------------------------------------------------------------------------------

    def _agreed(self, name: Callable[[], Path]) -> Path:
        """A name, which one rank makes for all: it takes digests of all weights."""
        return self._group.broadcast(name() if self._group.first else Path())

    def _ensure(self, path: Path, make: Callable[[], T], write: Callable[[T, Path], object]) -> None:
        """Have a file here and in the store; it is made where neither has it."""
        first = self._group.first
        self._check()
        if not self._group.broadcast(first and (path.exists() or self._store.pull_file(path))):
            made = make()
            if first:
                with atomic_write(path) as fresh:
                    write(made, fresh)
        if first:
            self._store.push_file(path)

    def _progress(self, done: int, of: int) -> None:
        self._check()
        self._report(f"{done} of {of}")


def _write(measured: Measurement | None, path: Path) -> None:
    assert measured is not None
    path.write_text(json.dumps(measured.to_json(), indent=1))


def _measurement(found: CorrespondenceResult) -> Measurement:
    details = {"per_point": found.per_point}
    if found.geometry_aware is not None:
        details["geometry_aware"] = found.geometry_aware.per_image
    details |= {"position": found.position.per_image, "ceiling": found.ceiling.per_image}
    return Measurement(found.per_image, details=details)
