"""The multimodal model: vision representation, connector, fusion, and any causal language model of transformers.

Image tokens take the place of `<image>` in the prompt. Which parts are trained, and how fast, is a table per stage
(`Tune`); everything else is frozen.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor, nn

from trainers.connectors import Connector
from trainers.contracts import Layout, Seen, Tokens
from trainers.data.batch import Batch
from trainers.data.collate import Batcher
from trainers.data.feature_cache import FeatureCache
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, Tokenizer
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import ConfigError, TrainingError
from trainers.fusions import Fusion
from trainers.fusions.splice import Splice
from trainers.job import Tune
from trainers.model import generation, likelihood
from trainers.model.fsdp import assign
from trainers.model.loss import plain_head, summed_loss, supervised_logits
from trainers.model.packed_attention import packed_inputs

PARTS = ("vision", "connector", "fusion", "llm")


class MultimodalModel(nn.Module):
    """A vision representation, a connector, a fusion and a language model, joined.

    Attributes:
        vision: the encoders.
        connector: makes tokens of their features.
        fusion: shows these to the language model.
        llm: the causal language model.
        tokenizer: the language model's.
        template: the conversation template by which `generate` asks.
    """

    def __init__(
        self,
        vision: VisionRepresentation,
        connector: Connector,
        llm: Any,
        tokenizer: Tokenizer,
        template: str,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.connector, self.llm = vision, connector, llm
        self.fusion = fusion or Splice()
        self.fusion.attach(llm)
        self.tokenizer, self.template = tokenizer, template
        self._plain = plain_head(llm)
        self.vision.requires_grad_(False)
        self.llm.requires_grad_(False)
        self._adapted: dict[str, list[str]] = {}  # layers that LoRA adapts, by part

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.connector.parameters()).device

    @property
    def pad_id(self) -> int:
        """The token id that fills samples up to the longest one of a batch."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights and of how they are used; caches of the model's answers use it."""
        tokens = self.connector.count(self.vision.framing.square_layout())
        content = hashlib.sha256(f"{self.vision.fingerprint} {tokens} {self.template}".encode())
        for name, tensor in self.state_dict().items():
            content.update(name.encode())
            content.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    @property
    def _vision_tuned(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vision.parameters())

    # -- forward -------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the cross-entropies of all supervised tokens, to be divided by their number over all processes."""
        inputs = self.llm_inputs(batch) | packed_inputs(batch.position_ids)
        return summed_loss(self.llm, batch.labels, self._plain, **inputs)

    def token_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The log-likelihood of every supervised token.

        Returns:
            (B, P) float log-likelihoods at the P positions where any sample has a supervised token, and (B, P) bool:
            whether the sample has one there.
        """
        following = batch.labels[:, 1:]
        positions = (following != IGNORE_INDEX).any(0)
        mask = following[:, positions] != IGNORE_INDEX
        # without a mask of attention: padding is on the right, where what is causal does not look
        logits, targets = supervised_logits(self.llm, batch.labels, **self.llm_inputs(batch))
        values = torch.zeros(mask.shape, device=logits.device)
        values[mask] = -functional.cross_entropy(logits.float(), targets, reduction="none")
        return values, mask

    def llm_inputs(self, batch: Batch) -> dict[str, Any]:
        """What the language model is called with."""
        text_embeds: Tensor = self.llm.get_input_embeddings()(batch.input_ids.clamp(min=0))
        if batch.seen is None or self._vision_tuned:
            # Processes wait for each other's gradients, in the order of the graph: text alone must have the same.
            parts = (self.vision, self.connector, self.fusion)
            before_llm = (weight for part in parts for weight in part.parameters())
            text_embeds = text_embeds + 0.0 * sum(weight.sum() for weight in before_llm if weight.requires_grad)
        tokens = None if batch.seen is None else self._project(batch.seen)
        arguments: dict[str, Any] = self.fusion(text_embeds, tokens, batch)
        return arguments

    def _project(self, seen: Seen) -> Tokens:
        dtype = next(self.connector.parameters()).dtype
        features = tuple(replace(one, values=one.values.to(dtype)) for one in self.vision.features(seen))
        tokens: Tokens = self.connector(features, seen)
        return tokens

    @torch.inference_mode()
    def image_tokens(self, images: Sequence[Image.Image]) -> Tokens:
        """The tokens that the language model sees of images.

        Raises:
            ConfigError: it does not see them as tokens among its own.
        """
        if not self.fusion.spliced:
            raise ConfigError(f"with {type(self.fusion).__name__} the language model sees no tokens of images")
        return self._project(self.vision.look([[image] for image in images]).each(lambda one: one.to(self.device)))

    def positions(self, layout: Layout) -> int:
        """How many positions an image of this layout takes."""
        return self.fusion.positions(self.connector.count(layout))

    def batcher(self, samples: Samples, longest: int, cache: FeatureCache | None = None) -> Batcher:
        """What makes batches of samples for this model.

        Args:
            samples: what they are taken from.
            longest: positions after which a sample is cut.
            cache: the images' features; None where this model encodes the images.
        """
        framing = self.vision.framing
        image_tokens = samples.per_image(lambda *size: self.positions(framing.layout(*size)))
        return Batcher(samples, self.vision, image_tokens, longest, self.pad_id, cache)

    # -- generation ----------------------------------------------------------------------------------------------------

    def generate(
        self, images: Sequence[generation.Shown], prompts: Sequence[str], max_new_tokens: int, batch_size: int = 256
    ) -> list[str]:
        """Answer prompts greedily, each about its images if it has some.

        Only prompts of equal length share a batch, so nothing is padded and an answer does not depend on the batch.

        Args:
            images: for each prompt None, an image, or a list of images and of the frames of videos.
            prompts: texts, which may say with `<image>` where each image is; else they come first.
            max_new_tokens: the longest answer.
            batch_size: prompts that are answered at a time.

        Raises:
            TrainingError: a prompt has another number of `<image>` than images.
        """
        return generation.generate(self, images, prompts, max_new_tokens, batch_size)

    def prompt_length(self, image: generation.Shown, prompt: str) -> int:
        """Positions that a prompt takes with its images. Prompts of equal length are answered together by `generate`.

        Raises:
            TrainingError: the prompt has another number of `<image>` than images.
        """
        return len(generation.prompt_ids(self, prompt, generation.visuals(image)))

    def log_likelihood(
        self,
        images: Sequence[generation.Shown],
        prompts: Sequence[str],
        continuations: Sequence[str],
        batch_size: int = 32,
    ) -> list[tuple[float, bool]]:
        """How likely continuations are as replies to prompts.

        Args:
            images: for each prompt None, an image, or a list of images and of the frames of videos.
            prompts: as for `generate`.
            continuations: a reply to each. What ends a reply in the template is not scored.
            batch_size: prompts at a time.

        Returns:
            For each the log-likelihood, summed over the reply's tokens, in nats; and whether each of these tokens is
            the likeliest after those before it.

        Raises:
            TrainingError: a prompt has another number of `<image>` than images, or a reply has no token.
        """
        return likelihood.log_likelihood(self, images, prompts, continuations, batch_size)

    # -- training ------------------------------------------------------------------------------------------------------

    def tune(self, table: dict[str, Tune], seed: int) -> list[dict[str, Any]]:
        """Freeze and unfreeze the parts as a stage says.

        Args:
            table: how each part is trained; a part that is not named is frozen.
            seed: of LoRA's matrices; the global generator is left as it was.

        Returns:
            The optimizer's parameter groups.

        Raises:
            ConfigError: there is no such part, or every part is frozen.
        """
        unknown = set(table) - set(PARTS)
        if unknown:
            raise ConfigError(f"train: no part {min(unknown)!r}; the parts are {', '.join(PARTS)}")
        groups = []
        for part in PARTS:
            tune = table.get(part, Tune())
            module: nn.Module = getattr(self, part)
            if tune.mode == "lora":
                head = self.llm.get_output_embeddings()
                linear = ((name, one) for name, one in module.named_modules() if isinstance(one, nn.Linear))
                self._adapted[part] = [name for name, one in linear if one is not head]
                module = _with_lora(module, self._adapted[part], tune, seed)
                setattr(self, part, module)
            else:
                module.requires_grad_(tune.mode == "full")
            weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
            if weights:
                groups.append({"params": weights, "lr": tune.lr, "part": part})
        if not groups:
            raise ConfigError("train: every part is frozen; give at least the connector mode full and an lr")
        return groups

    def trainable(self) -> dict[str, Tensor]:
        """The weights that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable(self, weights: dict[str, Tensor], source: object = "given") -> None:
        """Set weights by name.

        Args:
            weights: tensors by name.
            source: where they are from, for errors.

        Raises:
            TrainingError: a weight is unknown here, has another shape, or is not made of finite numbers.
        """
        own = dict(self.named_parameters())
        for name, tensor in weights.items():
            if name not in own or own[name].shape != tensor.shape:
                here = f"a shape of {tuple(own[name].shape)}" if name in own else "no such weight"
                raise TrainingError(
                    f"{source}: weights of another model: {name} {tuple(tensor.shape)}; this one has {here}"
                )
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise TrainingError(f"{source}: the weight {name} ({tensor.dtype}) is not made of finite numbers")
            assign(own[name], tensor)

    def merge(self) -> set[str]:
        """Merge LoRA's matrices into the weights that they adapt, and return the names of these weights."""
        merged = {f"{part}.{layer}.weight" for part, layers in self._adapted.items() for layer in layers}
        for part in self._adapted:
            setattr(self, part, getattr(self, part).merge_and_unload())
        self._adapted.clear()
        return merged


def _with_lora(module: Any, layers: list[str], tune: Tune, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,  # scaling is alpha / r, whole or not
        lora_dropout=0.0,
        target_modules=layers,
    )
    with torch.random.fork_rng(devices=[]), without_future_warnings():
        torch.default_generator.manual_seed(seed)
        return get_peft_model(module, config)


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Hide FutureWarnings about what transformers 6 will change, also where peft calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
