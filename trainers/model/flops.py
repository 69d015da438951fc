"""What training costs in operations, from the shapes of the model alone.

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

from trainers.connectors import Connector
from trainers.contracts import Features, Layout, MapShape, Seen
from trainers.encoders.joined import VisionRepresentation
from trainers.job import Stage, Tune
from trainers.model.multimodal import MultimodalModel

# Dense bf16 tensor-core peaks in FLOP/s, from the vendor's data sheets.
_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "A10": 125e12, "L40S": 362e12, "B200": 2250e12}
TYPICAL = (640, 480)  # pixels of an image of COCO, of which LLaVA's data has most


@dataclass(frozen=True)
class ModelShape:
    """Numbers that decide what a model costs.

    Attributes:
        llm: weights of the language model.
        matrices: of these, the weights that multiply every token.
        head: weights of the output layer, which multiplies text tokens only.
        layers: layers of the language model.
        width: of the language model.
        outputs: widths of what the linear layers of one of its layers give, together.
        inner: the widest input of such a layer.
        adapted: widths of inputs and outputs of all of these layers together.
        vocabulary: tokens that it knows.
        largest: weights of its largest matrix.
        vision: weights of the encoders.
        encode: operations of the encoders on one image.
        connector: weights of the connector.
        project: operations of the connector on one image, going forward.
        image_tokens: tokens that an image becomes.
        features: numbers that the connector takes of an image.
        seen: numbers that encoders keep of an image for their gradient, where they are trained.
    """

    llm: int
    matrices: int
    head: int
    layers: int
    width: int
    outputs: int
    inner: int
    adapted: int
    vocabulary: int
    largest: int
    vision: int = 0
    encode: float = 0.0
    connector: int = 0
    project: float = 0.0
    image_tokens: int = 0
    features: int = 0
    seen: int = 0

    @classmethod
    def of_llm(cls, llm: Any) -> ModelShape:
        """The numbers of a language model alone.

        The output layer is one matrix product, tied to the embeddings or not; the table of embeddings is none.
        """
        tables = {id(layer.weight) for layer in llm.modules() if isinstance(layer, nn.Embedding)}
        head = llm.get_output_embeddings().weight
        linear = [one for one in llm.modules() if isinstance(one, nn.Linear) and one.weight is not head]
        layers = llm.config.num_hidden_layers
        sizes = {id(weight): weight.numel() for weight in llm.parameters()}
        matrices = {id(weight) for weight in llm.parameters() if weight.ndim >= 2} - tables - {id(head)}
        return cls(
            llm=sum(sizes.values()),
            matrices=sum(sizes[key] for key in matrices),
            head=head.numel(),
            layers=layers,
            width=llm.config.hidden_size,
            outputs=sum(one.out_features for one in linear) // layers,
            inner=max(one.in_features for one in linear),
            adapted=sum(one.in_features + one.out_features for one in linear),
            vocabulary=len(head),
            largest=max(sizes.values()),
        )

    @classmethod
    def of(cls, model: MultimodalModel) -> ModelShape:
        """The numbers of a whole model."""
        return cls.of_llm(model.llm).with_vision(model.vision, model.connector)

    def with_vision(self, vision: VisionRepresentation, connector: Connector) -> ModelShape:
        """The numbers of this language model with encoders and a connector, for an image of `TYPICAL` size."""
        layout = vision.framing.layout(*TYPICAL)
        return replace(
            self,
            vision=sum(weight.numel() for weight in vision.parameters()),
            encode=sum(layout.views * encoder_flops(part, layout) for part in vision.encoders),
            connector=sum(weight.numel() for weight in connector.parameters()),
            project=_project_flops(vision, connector, layout),
            image_tokens=connector.count(layout),
            features=layout.views * sum(_cells(layout, shape) * shape.width for shape in vision.shapes),
            seen=layout.views * sum(map(_seen, vision.encoders)),
        )


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 FLOP/s of a GPU that we know; None for other devices, whose utilisation is then not reported."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in sorted(_PEAKS.items(), reverse=True) if known in name), None)


def encoder_flops(encoder: Any, layout: Layout | None = None) -> float:
    """Count the operations of an encoder on one view, a square one without a layout."""
    device = encoder.mean.device  # a buffer that every encoder has, also one without weights
    height, width = encoder.size, encoder.size
    if layout is not None and layout.grid is not None:
        height, width = layout.grid[0] * encoder.patch, layout.grid[1] * encoder.patch
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device)
    return _counted(lambda: encoder.encode(pixels, torch.zeros(1, dtype=torch.long, device=device)))


def _project_flops(vision: VisionRepresentation, connector: Connector, layout: Layout) -> float:
    """Operations of a connector on one image, going forward."""
    weight = next(connector.parameters())
    features = tuple(
        Features.of_maps(weight.new_zeros(layout.views, *(layout.grid or shape.grid), shape.width))
        for shape in vision.shapes
    )
    seen = Seen((layout,), torch.zeros(layout.views, dtype=torch.long))
    return _counted(lambda: connector(features, seen))


def _cells(layout: Layout, shape: MapShape) -> int:
    height, width = layout.grid or shape.grid
    return height * width


def _seen(encoder: Any) -> int:
    """Numbers that an encoder keeps of an image for its gradient, counted as of a ViT."""
    linear = [one for one in encoder.modules() if isinstance(one, nn.Linear)]
    if not linear:
        return 0
    positions = encoder.grid[0] * encoder.grid[1] + encoder.spec.prefix_tokens
    inner = max(one.in_features for one in linear)
    blocks = max(1, sum(one.in_features == inner for one in linear))
    each: int = sum(one.out_features for one in linear) + blocks * (2 * inner + 3 * encoder.width)
    return int(positions) * each


def _counted(run: Callable[[], object]) -> float:
    """Operations of what runs. Attention by plain products, since those fused for a CPU are not counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


def training_flops(
    shape: ModelShape,
    stage: Stage,
    text_tokens: int,
    *,
    recomputed: bool = True,
    images: int = 1,
    predicted: int | None = None,
) -> float:
    """Operations of one sample, forward and backward.

    Args:
        shape: what the model costs.
        stage: which parts are trained, and how.
        text_tokens: of the sample.
        recomputed: whether activations that are computed again count, as in the hardware's utilisation (HFU); without
            them it is the model's (MFU).
        images: of the sample.
        predicted: tokens that the output layer is used for; all of its text where that is not known.
    """
    trained = {part for part in ("vision", "connector", "llm") if _mode(stage, part) != "frozen"}
    image = 0.0 if stage.cache_features else shape.encode * (3 if "vision" in trained else 1)
    connector = shape.project * (3 if trained & {"connector", "vision"} else 1)
    positions = images * shape.image_tokens + text_tokens
    again = 1 if recomputed and stage.recomputed == "full" else 0  # forward; selectively, no product is made again
    passes = 3 if _mode(stage, "llm") == "full" else 2
    layers = 2 * shape.matrices * positions
    head = 2 * shape.head * (text_tokens if predicted is None else predicted)
    attention = 2 * shape.layers * shape.width * positions**2  # scores and their sum, half of them masked
    return images * (image + connector) + (passes + again) * layers + passes * head + (3 + again) * attention


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


def _mode(stage: Stage, part: str) -> str:
    return stage.train.get(part, Tune()).mode
