"""A model that answers as it is told, questions for it, and the evaluation of both."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from evals import Evaluation, evaluate, load_benchmarks
from support import tiny
from trainers.checkpoints.commit import commit_folder
from trainers.job import Parts, Tune
from trainers.model.loading import MODEL, WEIGHTS, build_model

LAW = {benchmark.name: benchmark for benchmark in load_benchmarks("law")}


class Oracle:
    """Answers by the shade of red of the image's first pixel; counts what it was asked."""

    device = "cpu"

    def __init__(self, answers: Sequence[str], fingerprint: str = "oracle") -> None:
        self.answers, self.fingerprint = answers, fingerprint
        self.batches: list[int] = []
        self.prompts: list[str] = []
        self.longest: set[int] = set()

    def generate(self, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        print("models print too")
        self.batches.append(len(prompts))
        self.prompts += prompts
        self.longest.add(max_new_tokens)
        return [self.answers[image.getpixel((0, 0))[0] if image else 0] for image in images]


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, 0, 0))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, format="PNG")
    return buffer.getvalue()


def write_questions(path: Path, answers: Sequence[str]) -> Path:
    """Questions of increasing length; the right answer to the i-th, about an image of shade i, is answers[i]."""
    rows = [
        {
            "id": f"q{i}",
            "image": {"bytes": png(i), "path": f"{i}.png"},
            "question": f"what is it{' really' * (i % 3)}?",
            "answer": answer,
        }
        for i, answer in enumerate(answers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


RIGHT = ["yes", "no", "two", "red", "left", "jam", "yes"]
GIVEN = ["Yes.", "no", "three", " red\nand blue", "right", "jam", "YES"]  # five of seven
COUNT = load_benchmarks("micro", ["micro_count"])


def trained_result(folder: Path) -> Path:
    """The result of a finetune, as the trainer commits it, of tiny random parts."""
    parts = Parts(
        representation="clip@32", llm=str(tiny.llm(folder / "llm")), template="chat", encoders=(tiny.encoders(folder),)
    )
    tuned = {part: Tune(mode="full", lr=0.001) for part in ("connector", "llm")}
    model = build_model(parts)
    model.tune(tuned, seed=0)
    generator = torch.Generator().manual_seed(0)
    with commit_folder(folder / "stage" / "result") as result:
        weights = {
            name: weight.detach() + 0.3 * torch.randn(weight.shape, generator=generator)
            for name, weight in model.trainable().items()
        }
        save_file(weights, result / WEIGHTS)
        about = {
            "parts": parts.model_dump(mode="json"),
            "train": {part: one.model_dump() for part, one in tuned.items()},
            "job": "of this test",
        }
        (result / MODEL).write_text(json.dumps(about))
    return folder / "stage" / "result"


def run(model: Any, folder: Path, data: dict[str, Path], **options: Any) -> Evaluation:
    return evaluate(model, COUNT, folder, data=data, **options)


def samples(folder: Path, name: str = "micro_count") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples" / f"{name}.jsonl").read_text().splitlines()]


class Guesser(Oracle):
    """Its answers to MMMU have no letter in them."""

    def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        given = super().generate(images, prompts, max_new_tokens)
        return ["hm" if "see <image" in prompt else text for prompt, text in zip(prompts, given, strict=True)]
