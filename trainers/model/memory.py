"""What training takes of a device's memory, from the shapes of the model alone: the most at any moment of a step.

Activations are counted as PyTorch's autograd keeps them for decoders of transformers (RMSNorm, gated feed-forward) and
for ViTs: what comes out of each linear layer, and what goes into it where its weight is trained or adapted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from trainers.job import Recompute, Stage, Tune
from trainers.model.flops import ModelShape
from trainers.model.loss import WHOLE

_LONG = 4  # times as much text as the mean, in the longest samples of instruction data
_SHARE = 0.85  # of a device's memory that a plan may take; the rest is for fragments and what libraries hold


@dataclass(frozen=True)
class MicroBatch:
    """What a process takes at a time.

    Attributes:
        positions: computed, padding included.
        images: shown.
        predicted: tokens that are learnt.
    """

    positions: int
    images: int
    predicted: int

    @classmethod
    def largest(cls, stage: Stage, image_tokens: int, text_tokens: int) -> MicroBatch:
        """The largest one to expect of data that is not there yet.

        Args:
            stage: says how many samples are taken at a time, and where they are cut.
            image_tokens: of an image.
            text_tokens: of a sample, on average.
        """
        longest = min(stage.longest, image_tokens + _LONG * text_tokens)
        samples, positions = stage.micro_batch, stage.micro_batch * longest
        if stage.pack:
            room = stage.tokens_per_pack or stage.micro_batch * stage.longest
            samples = max(1, min(samples, room // (image_tokens + text_tokens)))
            positions = min(room, stage.micro_batch * longest)
        return cls(positions, samples, max(0, positions - samples * image_tokens))


def stage_memory(
    shape: ModelShape,
    stage: Stage,
    processes: int,
    batch: MicroBatch,
    *,
    half: bool,
    recompute: Recompute | None = None,
) -> float:
    """Bytes that a process needs at most in a step.

    Args:
        shape: what the model costs.
        stage: which parts are trained, and how.
        processes: that train together.
        batch: the largest micro-batch.
        half: whether products are in bf16.
        recompute: what is computed again going backward; what the stage says where it is not given.
    """
    trained, frozen = _weights(shape, stage)
    shared = processes if stage.shard else 1
    kept = (12 * trained + (2 if half else 4) * frozen) / shared  # with the two moments of what is trained
    gradients = 4 * trained / shared * (2 if processes > 1 and not stage.shard else 1)  # DDP has buckets of its own
    if stage.shard and processes > 1:
        gathered = (shape.llm - shape.head) / max(shape.layers, 1) * 2 + shape.head
        kept += gathered * (2 if half else 4)
    elif half:
        gradients += 2 * trained  # autocast's copies of weights
    layer, layers = _layers(shape, stage, batch, half, recompute or stage.recomputed)
    logits = 12 * min(batch.predicted * shape.vocabulary, WHOLE)  # themselves, their logarithms, their gradient
    forward = layers + _before(shape, stage, batch, half) + logits
    optimizer = 0 if half else 8 * shape.largest * (_mode(stage, "llm") == "full")  # of one weight at a time
    return kept + max(forward, gradients + layer, gradients + optimizer)


def choose_recompute(
    shape: ModelShape, stage: Stage, processes: int, batch: MicroBatch, *, half: bool, memory: float
) -> Recompute:
    """The least that has to be computed again for a stage to fit.

    Args:
        shape: what the model costs.
        stage: which parts are trained, and how.
        processes: that train together.
        batch: the largest micro-batch.
        half: whether products are in bf16.
        memory: bytes of a process's device.
    """
    kinds: tuple[Recompute, ...] = ("none", "selective")
    for kind in kinds:
        if stage_memory(shape, stage, processes, batch, half=half, recompute=kind) <= _SHARE * memory:
            return kind
    return "full"


def device_memory(device: torch.device) -> float:
    """Bytes of a GPU; of a CPU, this process's share of the machine's."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _weights(shape: ModelShape, stage: Stage) -> tuple[int, int]:
    """How many are trained, and how many are frozen."""
    sizes = {"vision": 0 if stage.cache_features else shape.vision, "connector": shape.connector, "llm": shape.llm}
    trained = sum(size for part, size in sizes.items() if _mode(stage, part) == "full")
    frozen = sum(sizes.values()) - trained
    if _mode(stage, "llm") == "lora":
        trained += stage.train["llm"].rank * shape.adapted
    return trained, frozen


def _layers(shape: ModelShape, stage: Stage, batch: MicroBatch, half: bool, kind: str) -> tuple[float, float]:
    """Bytes that one layer of the language model keeps for its gradient, and all layers together."""
    width, mode = shape.width, _mode(stage, "llm")
    products = shape.outputs + width  # of linear layers, and of attention
    inputs = 3 * width + shape.inner if mode != "frozen" else 0
    norms = 2 * width if mode == "full" else 0
    size = 2 if half else 4
    layer = batch.positions * size * (products + shape.inner + inputs + norms)
    layer += batch.positions * 8 * width if half else 0  # norms are computed in float32
    held = products + width + (shape.outputs if mode == "lora" else 0)  # LoRA's products beside the weights' own
    whole = {
        "none": layer * shape.layers,
        "selective": batch.positions * size * held * shape.layers + layer,
        "full": batch.positions * size * width * shape.layers + layer,
    }
    return layer, whole[kind]


def _before(shape: ModelShape, stage: Stage, batch: MicroBatch, half: bool) -> float:
    """Bytes of what comes before and after the layers: embeddings, images, the last norm."""
    size = 2 if half else 4
    around = 4 * batch.positions * shape.width * size
    connector = batch.images * size * (shape.features + 2 * shape.image_tokens * shape.width)
    vision = batch.images * shape.seen * size if _mode(stage, "vision") == "full" else 0
    return around + connector + vision


def _mode(stage: Stage, part: str) -> str:
    return stage.train.get(part, Tune()).mode
