"""A trained model as `LlavaForConditionalGeneration` of transformers, with a processor that gives what we give.

What is written is tried first: tokens of a picture and ids of a prompt must be ours, or nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainers.data.templates import IMAGE, IMAGE_ID
from trainers.encoders.base import Encoder
from trainers.errors import TrainingError
from trainers.export.prompts import with_image_token
from trainers.export.towers import as_transformers
from trainers.framings.square import LETTERBOX, POLICIES
from trainers.model.generation import ends, prompt_ids
from trainers.model.multimodal import MultimodalModel
from trainers.representation import DEFAULTS, parse

_TOLERANCE = 1e-4  # of tokens, relative to the largest


@dataclass(frozen=True)
class Exported:
    """A model and a processor of transformers.

    Attributes:
        model: `LlavaForConditionalGeneration`.
        processor: `LlavaProcessor`.
        remarks: what differs from the model here, a line each.
    """

    model: Any
    processor: Any
    remarks: tuple[str, ...]


def to_llava(trained: MultimodalModel, representation: str) -> Exported:
    """Build the same model of transformers' parts.

    Args:
        trained: ready for evaluation, with LoRA merged, on the CPU in float32.
        representation: its name.

    Raises:
        TrainingError: it cannot be expressed; the message names what.
    """
    asked = parse(representation)
    if len(asked.parts) > 1:
        raise TrainingError("cannot be exported: LLaVA in transformers has one tower, and this model several encoders")
    if trained.vision.policy not in POLICIES:
        raise TrainingError(
            f"cannot be exported: LLaVA in transformers shows one square, not {trained.vision.policy!r}"
        )
    if any(asked.choice(role) != DEFAULTS[role] for role in ("connector", "joining", "fusion")):
        raise TrainingError(
            f"cannot be exported: of {representation!r}, LLaVA in transformers knows the connector mlp2x alone, "
            "without a common grid"
        )
    model, image_id, resized = _model(trained)
    processor = _processor(trained, model.config)
    remarks = []
    if resized:
        remarks.append(f"The vocabulary has one token more, {IMAGE}, which is never generated.")
    if trained.vision.policy == LETTERBOX:
        remarks.append(
            "Images that are not square are padded before they are resized, as LlavaImageProcessor does; acsearch pads "
            "after. Their tokens differ a little, those of square images do not."
        )
    _compare(trained, model, processor, image_id)
    return Exported(model, processor, tuple(remarks))


def _model(trained: MultimodalModel) -> tuple[Any, int, bool]:
    """The model, the id of the image token, and whether the vocabulary had to grow for it."""
    from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

    encoder, llm = encoder_of(trained), trained.llm
    tower = as_transformers(encoder)
    image_id = with_image_token(trained.tokenizer, trained.template).convert_tokens_to_ids(IMAGE)
    rows = llm.get_input_embeddings().num_embeddings
    text = type(llm.config).from_dict({**llm.config.to_dict(), "vocab_size": max(rows, image_id + 1)})
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=trained.positions(trained.vision.framing.square_layout()),
        vision_feature_layer=-1,  # the tower ends there
        vision_feature_select_strategy="default" if tower.prefix_tokens else "full",
        tie_word_embeddings=llm.config.tie_word_embeddings,
        dtype=torch.float32,
    )
    weights = {f"model.vision_tower.{name}": tensor for name, tensor in tower.weights.items()}
    linear = [layer for layer in trained.connector.modules() if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(linear, 1):
        for name, tensor in layer.state_dict().items():
            weights[f"model.multi_modal_projector.linear_{number}.{name}"] = tensor
    for name, tensor in llm.state_dict().items():
        own = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        weights[own] = (
            _grown(tensor, image_id + 1) if name.endswith(("embed_tokens.weight", "lm_head.weight")) else tensor
        )
    model, report = LlavaForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict={name: tensor.float() for name, tensor in weights.items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    wrong = {*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])}
    if wrong:
        raise TrainingError(f"cannot be exported: LLaVA in this transformers has other weights, such as {min(wrong)}")
    model.generation_config = GenerationConfig(
        eos_token_id=ends(trained) or None,
        pad_token_id=trained.pad_id,
        bos_token_id=trained.tokenizer.bos_token_id,
        suppress_tokens=[image_id] if image_id >= rows else None,
    )
    return model.eval(), image_id, image_id >= rows


def encoder_of(trained: MultimodalModel) -> Encoder:
    """The model's first encoder."""
    encoder = trained.vision.parts[0]
    assert isinstance(encoder, Encoder)
    return encoder


def _grown(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A vocabulary's table with the mean of its rows as each further one."""
    missing = rows - len(table)
    return table if missing <= 0 else torch.cat([table, table.mean(0, keepdim=True).expand(missing, -1)])


def _processor(trained: MultimodalModel, config: Any) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    encoder = encoder_of(trained)
    square = {"height": encoder.size, "width": encoder.size}
    images = LlavaImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        do_pad=trained.vision.policy == LETTERBOX,
        image_mean=list(encoder.spec.mean),
        image_std=list(encoder.spec.std),
    )
    tokenizer = with_image_token(trained.tokenizer, trained.template)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=encoder.patch,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=encoder.spec.prefix_tokens,
        chat_template=tokenizer.chat_template,
    )


@torch.inference_mode()
def _compare(trained: MultimodalModel, model: Any, processor: Any, image_id: int) -> None:
    """Raises TrainingError where a picture's tokens or a prompt's ids are not ours."""
    encoder = encoder_of(trained)
    noise = np.random.default_rng(0).integers(0, 256, (encoder.size, encoder.size, 3))
    picture = Image.fromarray(noise.astype(np.uint8))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is this? Say it."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = [image_id if one == IMAGE_ID else one for one in prompt_ids(trained, "What is this? Say it.", [(picture,)])]
    if inputs["input_ids"][0].tolist() != ids:
        raise TrainingError("cannot be exported: a processor of transformers gives other ids for a prompt")
    ours = trained.image_tokens([picture]).values
    theirs = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > _TOLERANCE * ours.abs().max():
        raise TrainingError(
            f"cannot be exported: {encoder.spec.name} gives other features in transformers, at layer {encoder.layer}"
        )
