"""A and C of a candidate as its study file asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from acsearch.runners.assets import StudyAssets
from acsearch.runners.base import Measurement
from acsearch.scores import extract
from acsearch.scores.alignment import alignment_cos, alignment_ll
from acsearch.scores.correspondence import correspondence as measure_correspondence
from acsearch.scores.pck import CorrespondenceResult
from acsearch.scores.stage1 import caption_batches, choose, images
from trainers.model.loading import load_model
from trainers.representation import Representation
from trainers.utils.progress import silent


def save_maps(assets: StudyAssets, representation: Representation, path: Path) -> None:
    """Write an encoder's maps of the pairs' images: a tensor (images, height, width, channels)."""
    torch.save(extract.extract(assets.vision(representation), assets.pairs)[0].cpu(), path)


def correspondence(assets: StudyAssets, representation: Representation, maps: Sequence[torch.Tensor]) -> Measurement:
    """C on what the connector receives, in percent.

    Args:
        assets: of the study.
        representation: the candidate.
        maps: of each encoder, as `save_maps` writes them.
    """
    asked, vision = assets.training.correspondence, assets.vision(representation)
    assert asked is not None
    found = measure_correspondence(
        extract.on_grid(maps, vision.joining),
        assets.pairs,
        extract.frames(vision, assets.pairs),
        decode=asked.decode,
        extent=extract.extent(vision),
    )
    return _measurement(found)


def correspondence_compat(assets: StudyAssets, representation: Representation) -> Measurement:
    """C as the AC law's authors compute it, in percent."""
    found = extract.measure_compat(representation, assets.registry, assets.pairs, device=assets.device)
    return _measurement(found)


def _measurement(found: CorrespondenceResult) -> Measurement:
    details = {"per_point": found.per_point}
    if found.geometry_aware is not None:
        details["geometry_aware"] = found.geometry_aware.per_image
    details |= {"position": found.position.per_image, "ceiling": found.ceiling.per_image}
    return Measurement(found.per_image, details=details)


def alignment(assets: StudyAssets, connector: Path, references: Sequence[Path], index: Path) -> Measurement:
    """A of a stage-1 model, in the unit of the definition that the study file names.

    Args:
        assets: of the study.
        connector: the committed result of the candidate's stage 1.
        references: those of the models that A_cos compares with; empty for other definitions.
        index: folder of the indices of manifests.
    """
    asked, stage = assets.training.alignment, assets.training.align
    model = load_model(connector, assets.device)
    samples = assets.samples(asked.data, stage, model.tokenizer, index, silent)
    chosen = choose(samples, asked.samples, assets.training.seed)
    if asked.definition == "A_cos":
        others = [load_model(path, assets.device) for path in references]
        return Measurement(alignment_cos(model, others, images(samples, chosen)).value)
    batches = caption_batches(model, samples, chosen, longest=stage.longest, batch_size=stage.micro_batch)
    found = alignment_ll(model, batches)
    return Measurement(found.value, found.standard_error, {"token_weighted": found.token_weighted})
