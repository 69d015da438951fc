"""What training costs, in operations and bytes, from the shapes of the model alone.

A product with a weight costs 2 operations per weight and token going forward, 2 for the gradient of what came in, and 2
for the gradient of the weight. A frozen part that has nothing trained before it needs the first only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainers.connectors.base import Connector
from trainers.encoders.joined import VisionRepresentation
from trainers.job import Stage, Tune
from trainers.model.multimodal import MultimodalModel

# Dense bf16 tensor-core peaks in FLOP/s, from the vendor's data sheets.
_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "A10": 125e12, "L40S": 362e12, "B200": 2250e12}
_ACTIVATIONS = 34  # bytes kept per position, width and layer in half precision (Korthikanti et al., arXiv 2205.05198)
_ADAM = 16  # bytes per trained weight: itself, its gradient and two moments, in float32


@dataclass(frozen=True)
class ModelShape:
    """Numbers that decide what a model costs.

    Attributes:
        llm: weights of the language model.
        matrices: of these, the weights that multiply every token.
        head: weights of the output layer, which multiplies text tokens only.
        layers: layers of the language model.
        width: of the language model.
        vision: weights of the encoders.
        encode: operations of the encoders on one image.
        connector: weights of the connector.
        project: operations of the connector on one image, going forward.
        image_tokens: tokens that an image becomes.
    """

    llm: int
    matrices: int
    head: int
    layers: int
    width: int
    vision: int = 0
    encode: float = 0.0
    connector: int = 0
    project: float = 0.0
    image_tokens: int = 0

    @classmethod
    def of_llm(cls, llm: Any) -> ModelShape:
        """The numbers of a language model alone.

        The output layer is one matrix product, tied to the embeddings or not; the table of embeddings is none.
        """
        tables = {id(layer.weight) for layer in llm.modules() if isinstance(layer, nn.Embedding)}
        head = llm.get_output_embeddings().weight
        sizes = {id(weight): weight.numel() for weight in llm.parameters()}
        matrices = {id(weight) for weight in llm.parameters() if weight.ndim >= 2} - tables - {id(head)}
        return cls(
            llm=sum(sizes.values()),
            matrices=sum(sizes[key] for key in matrices),
            head=head.numel(),
            layers=llm.config.num_hidden_layers,
            width=llm.config.hidden_size,
        )

    @classmethod
    def of(cls, model: MultimodalModel) -> ModelShape:
        """The numbers of a whole model."""
        return cls.of_llm(model.llm).with_vision(model.vision, model.connector)

    def with_vision(self, vision: VisionRepresentation, connector: Connector) -> ModelShape:
        """The numbers of this language model with encoders and a connector."""
        weight = next(connector.parameters())
        features = torch.zeros(1, *vision.grid, vision.width, dtype=weight.dtype, device=weight.device)
        return replace(
            self,
            vision=sum(weight.numel() for weight in vision.parameters()),
            encode=sum(encoder_flops(part) for part in vision.encoders),
            connector=sum(weight.numel() for weight in connector.parameters()),
            project=_counted(lambda: connector(features)),
            image_tokens=connector.tokens,
        )


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 FLOP/s of a GPU that we know; None for other devices, whose utilisation is then not reported."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in sorted(_PEAKS.items(), reverse=True) if known in name), None)


def encoder_flops(encoder: Any) -> float:
    """Count the operations of an encoder on one image."""
    device = encoder.mean.device  # a buffer that every encoder has, also one without weights
    pixels = torch.zeros(1, 3, encoder.size, encoder.size, dtype=torch.uint8, device=device)
    return _counted(lambda: encoder.encode(pixels, torch.zeros(1, dtype=torch.long, device=device)))


def _counted(run: Callable[[], object]) -> float:
    """Operations of what runs. Attention by plain products, since those fused for a CPU are not counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


def training_flops(shape: ModelShape, stage: Stage, text_tokens: int, *, recomputed: bool = True) -> float:
    """Operations of one sample, forward and backward.

    Args:
        shape: what the model costs.
        stage: which parts are trained, and how.
        text_tokens: of the sample, which has one image too.
        recomputed: whether activations that are computed again count, as in the hardware's utilisation (HFU); without
            them it is the model's (MFU).
    """
    trained = {part for part in ("vision", "connector", "llm") if _mode(stage, part) != "frozen"}
    image = 0.0 if stage.cache_features else shape.encode * (3 if "vision" in trained else 1)
    connector = shape.project * (3 if trained & {"connector", "vision"} else 1)
    positions = shape.image_tokens + text_tokens
    again = 1 if recomputed and stage.gradient_checkpointing else 0  # forward
    passes = again + (3 if _mode(stage, "llm") == "full" else 2)
    weights = 2 * (shape.matrices * positions + shape.head * text_tokens)
    attention = 2 * shape.layers * shape.width * positions**2  # scores and their sum, half of them masked
    return image + connector + passes * weights + (3 + again) * attention


def forward_flops(shape: ModelShape, text_tokens: int, predicted: int) -> float:
    """Operations of one sample with an image, without gradients.

    Args:
        shape: what the model costs.
        text_tokens: of the sample, question and answer.
        predicted: of these, how many are predicted.
    """
    positions = shape.image_tokens + text_tokens
    weights = 2 * (shape.matrices * positions + shape.head * predicted)
    return shape.encode + shape.project + weights + 2 * shape.layers * shape.width * positions**2


def stage_memory(shape: ModelShape, stage: Stage, processes: int, text_tokens: int) -> float:
    """Bytes that a process needs for weights, optimizer and activations of a micro-batch. A rough upper estimate.

    Args:
        shape: what the model costs.
        stage: which parts are trained, and how.
        processes: that train together.
        text_tokens: of a sample, which has one image too.
    """
    sizes = {"vision": shape.vision, "connector": shape.connector, "llm": shape.llm}
    trained = sum(size for part, size in sizes.items() if _mode(stage, part) == "full")
    frozen = sum(size for part, size in sizes.items() if _mode(stage, part) != "full")
    if stage.cache_features:
        frozen -= shape.vision
    shared = processes if stage.shard else 1
    positions = stage.micro_batch * (shape.image_tokens + text_tokens)
    layers = 2 if stage.gradient_checkpointing else shape.layers  # one at work, and every layer's input
    activations = positions * shape.width * (_ACTIVATIONS * layers + 2 * shape.layers)
    return (_ADAM * trained + 4 * frozen) / shared + activations


def _mode(stage: Stage, part: str) -> str:
    return stage.train.get(part, Tune()).mode
