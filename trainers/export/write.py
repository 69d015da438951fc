"""Write a committed result for transformers: weights, processor, and a card that says what it is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainers.errors import ConfigError, printable
from trainers.export.llava import Exported, encoder_of, to_llava
from trainers.model.loading import load_model, parts_of

if TYPE_CHECKING:
    from trainers.job import Parts
    from trainers.model.multimodal import MultimodalModel

CARD = "README.md"
MARK = "<!-- written by acsearch export -->"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BEGINNING = 4096  # bytes in which the mark must be


@dataclass(frozen=True)
class About:
    """What is known of a model beside its weights.

    Attributes:
        source: where it is from, a line.
        scores: of benchmarks, as text by name.
    """

    source: str
    scores: Mapping[str, str] = field(default_factory=dict)


def export(result: Path, out: Path, about: About, *, dtype: str = "float32", force: bool = False) -> tuple[str, ...]:
    """Write the model of a committed result as one of transformers.

    Args:
        result: its folder.
        out: the folder to write; it is written whole or not at all.
        about: for the card.
        dtype: of the weights, a key of `DTYPES`.
        force: whether files of others in `out` may be overwritten.

    Returns:
        What differs from the model here, a line each.

    Raises:
        ConfigError: `out` must not be written.
        TrainingError: the result cannot be used, or transformers cannot express it.
    """
    ours = _check_out(out, force)
    trained, parts = load_model(result), parts_of(result)
    exported = to_llava(trained, parts.representation)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        exported.model.to(DTYPES[dtype]).save_pretrained(fresh)
        exported.processor.save_pretrained(fresh)
        (fresh / CARD).write_text(_card(trained, parts, exported, about, dtype), encoding="utf-8")
        fresh.chmod(0o777 & ~_umask())
        _put(fresh, out, ours=ours)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return exported.remarks


def _check_out(out: Path, force: bool) -> bool:
    """Whether there is a folder that an export wrote."""
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: the folder above is not there; make it first")
    if not os.path.lexists(out):
        return False
    if out.is_symlink() or not out.is_dir():
        raise ConfigError(f"{out}: exists and is not a folder; choose another name")
    card = out / CARD
    if card.is_file() and not card.is_symlink():
        with card.open("rb") as file:
            if MARK.encode() in file.read(_BEGINNING):
                return True
    if any(out.iterdir()) and not force:
        raise ConfigError(
            f"{out}: has files that acsearch did not write; choose another name, or --force to add to them"
        )
    return False


def _put(fresh: Path, out: Path, *, ours: bool) -> None:
    """Give the folder its name; an earlier export makes room, and beside files of others each file takes its place."""
    if out.is_dir() and not ours and any(out.iterdir()):
        for path in fresh.iterdir():
            os.replace(path, out / path.name)
        return
    if out.is_dir():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        os.replace(out, old)
        os.replace(fresh, out)
        shutil.rmtree(old, ignore_errors=True)
        return
    os.replace(fresh, out)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _card(trained: MultimodalModel, parts: Parts, exported: Exported, about: About, dtype: str) -> str:
    spec = encoder_of(trained).spec
    rows = "".join(f"| {_cell(name)} | {_cell(score)} |\n" for name, score in about.scores.items())
    scores = f"\n| benchmark | score |\n|---|---|\n{rows}" if rows else "\nIts scores are not known here.\n"
    remarks = "".join(f"- {remark}\n" for remark in exported.remarks)
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
license: other
---
{MARK}

# {_cell(parts.representation)}

A LLaVA whose vision representation is `{_cell(parts.representation)}`, {_cell(about.source)}.

| part | what | licence |
|---|---|---|
| vision encoder | {_cell(spec.name)}, {_cell(_name(spec.weights or ""))} | {_cell(spec.licence)} |
| connector | mlp2x | that of the data it was trained on |
| language model | {_cell(_name(parts.llm))} | see its own card |
{scores}
```python
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER, backend="pil")
content = [{{"type": "image", "image": image}}, {{"type": "text", "text": "What is this?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**inputs, max_new_tokens=64, do_sample=False)
```

- The weights are {dtype}. In float32 its answers are those of the model that was evaluated.
- `backend="pil"` resizes as acsearch does; the default of `AutoProcessor` rounds otherwise.
{remarks}"""


def _name(weights: str) -> str:
    """A hub id, or the last part of a path, whose others say where somebody keeps files."""
    return Path(weights).name if Path(weights).is_absolute() else weights


def _cell(text: str) -> str:
    """Text that can neither end a cell of a table nor become a link or HTML."""
    shown = printable(text.replace("\n", " "))
    return "".join(f"\\{one}" if one in "|<>[]`\\" else one for one in shown)
