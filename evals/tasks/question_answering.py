"""What `question_answering.yaml` calls: one image, one question, one answer, right or wrong."""

from __future__ import annotations

from typing import Any

from PIL import Image


def with_images(dataset: Any) -> Any:
    """A `datasets.Dataset` whose column `image` decodes, whether its file says so or only holds structs."""
    import datasets

    return dataset.cast_column("image", datasets.Image())


def visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The image of a row."""
    return [doc["image"].convert("RGB")]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """accuracy: 1 where the answer is the right one, in any case and with or without a final full stop."""
    return {"accuracy": float(plain(results[0]) == plain(doc["answer"]))}


def plain(answer: str) -> str:
    """An answer as it is compared."""
    return answer.strip().removesuffix(".").rstrip().lower()
