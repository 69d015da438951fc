"""Prompts as transformers makes them: a tokenizer that knows the image token, and a chat template that writes as ours.

Messages may have content in parts, as processors expect: an image is shown before the text of its turn.
"""

from __future__ import annotations

import json
from typing import Any

from trainers.data.templates import IMAGE, Tokenizer, vicuna_system
from trainers.errors import TrainingError

_PARTS = (
    "{%- set ns = namespace(turns=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}"
    "{%- set text = message['content'] -%}"
    "{%- else -%}"
    "{%- set part = namespace(shown='', said='') -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{%- set part.shown = part.shown + '<image>\\n' -%}"
    "{%- elif item['type'] == 'text' -%}{%- set part.said = part.said + item['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set text = part.shown + part.said -%}"
    "{%- endif -%}"
    "{%- set ns.turns = ns.turns + [{'role': message['role'], 'content': text}] -%}"
    "{%- endfor -%}"
    "{%- set messages = ns.turns -%}"
)
_VICUNA = (
    "{{- (bos_token or '') + SYSTEM + ' ' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- 'USER: ' + message['content'] + ' ASSISTANT:' -}}"
    "{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)


def chat_template(template: str, tokenizer: Tokenizer) -> str:
    """The Jinja template that writes a conversation as a template of ours does.

    Raises:
        TrainingError: it is one that asks nothing.
    """
    if template == "chat":
        return _PARTS + str(tokenizer.chat_template)
    if template == "vicuna_v1":
        return _PARTS + _VICUNA.replace("SYSTEM", json.dumps(vicuna_system()))
    raise TrainingError(f"cannot be exported: the template {template!r} has no questions and answers")


def with_image_token(tokenizer: Tokenizer, template: str) -> Any:
    """A tokenizer whose ids for a prompt are ours: pieces on both sides of an image are coded as texts of their own.

    Args:
        tokenizer: the model's; it stays as it is.
        template: by which the model is asked.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = described.get("pre_tokenizer") or {}
    for one in (pieces, *pieces.get("pretokenizers", ())):
        if one.get("type") == "Metaspace" and one.get("prepend_scheme") == "first":
            one["prepend_scheme"] = "always"
    if template == "chat":  # what comes first is written by the template
        described["post_processor"] = None
    special = {
        name: getattr(tokenizer, name)
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if getattr(tokenizer, name) is not None
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(json.dumps(described)),
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **special,
    )
    made.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    made.chat_template = chat_template(template, tokenizer)
    return made
