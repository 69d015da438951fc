"""The answers that a model gave before, by its weights and by everything that it was shown.

A question is its prompt, the pixels of its images and the longest answer allowed; batches, tasks and paths are no part
of the key. On disk the answers outlive the process, one file per rank and line per answer, so that an evaluation that
was interrupted anywhere takes up after its last batch. lmms-eval's own cache stores nothing before a whole task is
answered, does not look at images, and forgets everything at each commit of the repository it is installed in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

# What a question is about: nothing, an image, or several images and videos, each of these the frames that are shown
Shown = Image.Image | Sequence[Image.Image | Sequence[Image.Image]] | None


class Answers:
    """The answers of one model, by the key of the question."""

    def __init__(self, folder: Path | None, fingerprint: str, rank: int = 0) -> None:
        """Read the answers that are there.

        Args:
            folder: of the answers of all models; None to keep them in memory only.
            fingerprint: of the model's weights.
            rank: of this process, which writes a file of its own.
        """
        self._known: dict[str, str] = {}
        self._file: Path | None = None
        if folder is not None:
            own = folder / hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
            own.mkdir(parents=True, exist_ok=True)
            for path in sorted(own.glob("rank*.jsonl")):
                self._known |= _read(path)
            self._file = own / f"rank{rank}.jsonl"

    def get(self, key: str) -> str | None:
        """The answer to a question; None where it is not known."""
        return self._known.get(key)

    def add(self, answers: dict[str, str]) -> None:
        """Keep answers, by key; they are on disk when this returns."""
        self._known |= answers
        if self._file is None or not answers:
            return
        lines = "".join(json.dumps([key, answer]) + "\n" for key, answer in answers.items())
        with self._file.open("ab") as file:
            file.write(b"\n" + lines.encode())  # ends a line that a crash may have left torn
            file.flush()
            os.fsync(file.fileno())


def question_key(prompt: str, image: Shown, max_new_tokens: int) -> str:
    """SHA-256 of a question.

    Args:
        prompt: the text.
        image: in RGB; a list of images and of the frames of videos; None where there is none.
        max_new_tokens: the longest answer.
    """
    size: Any = None
    frames: list[Image.Image] = []
    if isinstance(image, Image.Image):
        size, frames = image.size, [image]
    elif image is not None:
        visuals = [[one] if isinstance(one, Image.Image) else [*one] for one in image]
        size = [[frame.size for frame in visual] for visual in visuals]
        frames = [frame for visual in visuals for frame in visual]
    content = hashlib.sha256(json.dumps([prompt, max_new_tokens, size]).encode())
    for frame in frames:
        content.update(frame.tobytes())
    return content.hexdigest()


def _read(path: Path) -> dict[str, str]:
    answers = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            key, answer = json.loads(line)
        except ValueError:  # empty, or torn by a crash
            continue
        answers[key] = answer
    return answers
