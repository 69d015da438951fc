"""The functions that `question_answering.yaml` calls, for one image, one question and one answer."""

from __future__ import annotations

from typing import Any

from PIL import Image


def with_images(dataset: Any) -> Any:
    """A `datasets.Dataset` whose column `image` is decoded, also where its file holds plain structs."""
    import datasets

    return dataset.cast_column("image", datasets.Image())


def visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The image of a row."""
    return [doc["image"].convert("RGB")]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The accuracy of an answer: 1 where it is right, in upper or lower case and with or without a full stop."""
    return {"accuracy": float(plain(results[0]) == plain(doc["answer"]))}


def plain(answer: str) -> str:
    """An answer as it is compared: in lower case and without a final full stop."""
    return answer.strip().removesuffix(".").rstrip().lower()
