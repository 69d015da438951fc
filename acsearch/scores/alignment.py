"""Alignment A: how well a connector maps image features into the language model, after it was trained alone (stage 1).

There are two definitions, which are two different scores:

- `A_ll` is the log-likelihood of captions given their image, in nats per token; higher (nearer 0) is better. It is the
  mean over samples of the mean over the tokens of each. `A_ll` takes captions that the connector was not trained on;
  `A_ll_train`, as the paper, takes captions of its training data. Source: arXiv 2408.16357v3, section 3.3.
- `A_cos` is the cosine of each token of the representation to the nearest token of a reference model for the same
  image, averaged over tokens, images and reference models (CLIP at 224 and 336 pixels). Source: arXiv 2408.16357v1.

Likelihoods and similarities are computed in float32, of a model in the precision of its training: in a study that is
bf16 on GPUs, by default. The published A_cos values were computed in bfloat16, where the similarity of a model with
itself comes out as 1.002 to 1.008; here it is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from trainers.data.templates import IGNORE_INDEX
from trainers.errors import DataError, TrainingError

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainers.data.batch import Batch
    from trainers.model.multimodal import MultimodalModel

_EPS = 1e-10


@dataclass(frozen=True)
class LikelihoodResult:
    """The result of A_ll.

    Attributes:
        value: Mean over samples of their mean log-likelihood per token, in nats.
        standard_error: Standard error of `value`, NaN with a single sample.
        token_weighted: Mean over all tokens, which is minus the training loss; longer captions count more.
        samples: Number of samples.
        tokens: Number of caption tokens.
    """

    value: float
    standard_error: float
    token_weighted: float
    samples: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class CosineResult:
    """The result of A_cos.

    Attributes:
        value: Mean over the reference models.
        by_reference: The value for each reference model, in the order given.
        images: Number of images.
    """

    value: float
    by_reference: tuple[float, ...]
    images: int

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON types."""
        return asdict(self)


def caption_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log-likelihood per caption token of each sample.

    Args:
        logits: (batch, T, vocabulary); those at position t predict the token at t + 1.
        labels: (batch, T) token ids, `IGNORE_INDEX` at the positions of image and prompt.

    Returns:
        (batch,) float32, in nats per token.

    Raises:
        DataError: a sample has no caption token.
    """
    targets = labels[:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none"
    )
    return _mean_per_sample(-losses, targets != IGNORE_INDEX)


def cosine_alignment(tokens: Tensor, reference: Tensor) -> float:
    """Mean over the tokens of the cosine to the nearest reference token, wherever in the image that is.

    Args:
        tokens: (n, width) projected tokens of an image.
        reference: (m, width) tokens of a reference model for the same image. The score is not symmetric in the two.

    Raises:
        TrainingError: the widths differ, so the two models have different language models.
    """
    return float(_nearest(tokens[None], reference[None])[0])


def alignment_ll(model: MultimodalModel, batches: Iterable[Batch]) -> LikelihoodResult:
    """Compute A_ll of a stage-1 model on batches of captions.

    Raises:
        DataError: there is no batch, or a sample has no caption token.
    """
    return likelihood_of([batch_likelihood(model, batch) for batch in batches])


@dataclass(frozen=True, eq=False)
class BatchLikelihood:
    """What A_ll needs of one batch of captions.

    Attributes:
        means: (batch,) mean log-likelihood per token of each sample.
        total: Log-likelihood of all tokens.
        tokens: Number of tokens.
    """

    means: Tensor
    total: float
    tokens: int


@torch.inference_mode()
def batch_likelihood(model: MultimodalModel, batch: Batch) -> BatchLikelihood:
    """Compute what A_ll needs of one batch of captions.

    Raises:
        DataError: a sample has no caption token.
    """
    log_probs, mask = model.token_log_probs(batch)
    total = float((log_probs.double() * mask).sum())
    return BatchLikelihood(_mean_per_sample(log_probs, mask).cpu(), total, int(mask.sum()))


def likelihood_of(batches: Sequence[BatchLikelihood]) -> LikelihoodResult:
    """Compute A_ll from what was computed of its batches, in their order.

    Raises:
        DataError: there is no batch.
    """
    if not batches:
        raise DataError("no captions to measure A_ll on")
    total, tokens = _in_order(batch.total for batch in batches), sum(batch.tokens for batch in batches)
    values = torch.cat([batch.means for batch in batches]).double()
    spread = float(values.std()) if len(values) > 1 else float("nan")
    return LikelihoodResult(float(values.mean()), spread / len(values) ** 0.5, total / tokens, len(values), tokens)


def alignment_cos(
    model: MultimodalModel, references: Sequence[MultimodalModel], images: Sequence[Image], *, batch_size: int = 16
) -> CosineResult:
    """Compute A_cos of a stage-1 model.

    Args:
        model: The stage-1 model.
        references: Stage-1 models with the same language model, such as those of CLIP at 224 and at 336 pixels.
        images: The images to compare on.
        batch_size: Images at a time; the result does not depend on it.

    Raises:
        DataError: no image or no reference model was given.
        TrainingError: a reference model has another language model.
    """
    if not images or not references:
        raise DataError(f"A_cos needs images and reference models, got {len(images)} and {len(references)}")
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return cosine_of([cosine_sums(model, references, batch) for batch in batches], len(images))


def cosine_sums(
    model: MultimodalModel, references: Sequence[MultimodalModel], images: Sequence[Image]
) -> tuple[float, ...]:
    """Sum A_cos over a batch of images, for each reference model.

    Raises:
        TrainingError: a reference model has another language model.
        ConfigError: a language model does not see images as tokens among its own.
    """
    tokens, sums = model.image_tokens(images).split(), []
    for reference in references:
        pairs = zip(tokens, reference.image_tokens(images).split(), strict=True)
        nearest = torch.cat([_nearest(own[None], other[None].to(own.device)) for own, other in pairs])
        sums.append(float(nearest.double().sum()))
    return tuple(sums)


def cosine_of(sums: Sequence[tuple[float, ...]], images: int) -> CosineResult:
    """Compute A_cos from the sums over its batches, in their order.

    Args:
        sums: For each batch, what `cosine_sums` gave.
        images: Number of images in all batches.
    """
    by_reference = tuple(_in_order(one) / images for one in zip(*sums, strict=True))
    return CosineResult(sum(by_reference) / len(by_reference), by_reference, images)


def _in_order(values: Iterable[float]) -> float:
    """Their sum, the same in every version of Python: from 3.12 on the built-in one rounds otherwise."""
    return reduce(add, values, 0.0)


def _mean_per_sample(log_probs: Tensor, mask: Tensor) -> Tensor:
    """(batch, T) -> (batch,)"""
    counts = mask.sum(dim=1)
    if not counts.all():
        raise DataError(f"sample {int((counts == 0).nonzero()[0])} of a batch has no caption token to score")
    return (log_probs.float() * mask).sum(dim=1) / counts


def _nearest(tokens: Tensor, reference: Tensor) -> Tensor:
    """(images, n, width) and (images, m, width) -> (images,)"""
    if tokens.shape[-1] != reference.shape[-1]:
        raise TrainingError(
            f"tokens of width {tokens.shape[-1]} against a reference of width {reference.shape[-1]}; A_cos needs "
            "models whose connectors were trained for the same language model"
        )
    unit, reference = (
        one / (torch.linalg.vector_norm(one, dim=-1, keepdim=True) + _EPS)
        for one in (tokens.float(), reference.float())
    )
    cosines: Tensor = unit @ reference.transpose(1, 2)  # (images, n, m)
    return torch.amax(cosines, dim=2).mean(dim=1)
