"""Our models as lmms-eval sees them. This imports lmms-eval, which takes eight seconds.

`Model` says what a model must offer. It is asked the plain text of a question about one image or none, or about several
images and videos; the conversation template is the model's own matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from PIL import Image

from evals.response_cache import Answers, Shown, question_key
from trainers.encoders.videos import some_frames
from trainers.errors import DataError, EvaluationError
from trainers.utils.progress import BenchmarkCallback

# Where a task sets no limit its answers are a word or a letter: nothing that comes later could score.
MAX_NEW_TOKENS = 64


class Model(Protocol):
    """What can be evaluated.

    A model may have a method `prompt_length(image, prompt)` too: it is then asked batches of prompts of equal length.
    """

    @property
    def fingerprint(self) -> str:
        """A digest of the weights."""
        ...

    @property
    def device(self) -> torch.device | str:
        """Where the model computes."""
        ...

    def generate(self, images: Sequence[Shown], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, which are the same in batches of any size.

        Args:
            images: for each prompt None, an image, or a list of images and of the frames of videos.
            prompts: the questions.
            max_new_tokens: the longest answer.
        """
        ...


@dataclass(frozen=True)
class _Question:
    """A question without its image, which is loaded when it is asked: a task's images together would fill the memory.

    Attributes:
        prompt: the text.
        max_new_tokens: the longest answer.
        length: positions of the prompt and its image, where the model says so; else characters of the text.
        key: of its answer.
        row: of the request.
    """

    prompt: str
    max_new_tokens: int
    length: int
    key: str
    row: int


class AcsearchModel(lmms):
    """A model in memory, for lmms-eval.

    With several ranks each has its own whole model, and they answer different numbers of questions.

    Attributes:
        model: answers the questions.
        batch_size: how many questions are asked at a time.
        images: what is shown of several images: "one" makes them an error, "first" shows the first, "all" shows all,
            and videos too.
        progress: is called with how many questions are answered.
        answers: what the model has answered before.
    """

    is_simple = True

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int = 32,
        answers: Answers | None = None,
        images: Literal["one", "first", "all"] = "one",
        progress: BenchmarkCallback | None = None,
    ) -> None:
        super().__init__()
        self.model, self.batch_size, self.images, self.progress = model, batch_size, images, progress
        self.answers = answers if answers is not None else Answers(None, "")
        self._length_of: Callable[[Shown, str], int] | None = getattr(model, "prompt_length", None)

    @property
    def device(self) -> torch.device:
        """Where the tensors are that lmms-eval gathers; gloo gathers on the CPU, wherever the model is."""
        on_cpu = dist.is_initialized() and "gloo" in str(dist.get_backend())
        return torch.device("cpu" if on_cpu else self.model.device)

    def clean(self) -> None:
        """Do nothing: lmms-eval's own method would delete the model, which belongs to the caller."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer requests, in their order. Long prompts are asked first, so that memory runs out early or never."""
        questions = [self._question(row, request) for row, request in enumerate(requests)]
        new = {one.key: one for one in reversed(questions) if self.answers.get(one.key) is None}  # equal questions once
        waiting = Counter(one.key for one in questions if one.key in new)
        left = waiting.total()
        for batch in self._batches(list(new.values())):
            images = [self._shown(requests[one.row]) for one in batch]
            texts = self.model.generate(images, [one.prompt for one in batch], batch[0].max_new_tokens)
            self.answers.add({one.key: text for one, text in zip(batch, texts, strict=True)})
            left -= sum(waiting[one.key] for one in batch)
            self._tell(requests[0].args[4], len(requests) - left, len(requests))
        found = [_printable(self.answers.get(one.key) or "").strip() for one in questions]
        return [_until(text, request.args[1].get("until")) for text, request in zip(found, requests, strict=True)]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """The loss of each continuation, and whether greedy decoding gives it. lmms-eval chooses the smallest loss.

        It works for models with `log_likelihood(images, prompts, continuations) -> [(log-likelihood, greedy), ...]`.
        lmms-eval 0.7.3 turns a plain pair into text, and leaves what a GenerationResult holds as it is.

        Raises:
            EvaluationError: the model has no such method.
        """
        log_likelihood = getattr(self.model, "log_likelihood", None)
        if log_likelihood is None:
            raise EvaluationError(
                f"{requests[0].args[4]}: compares log-likelihoods, which {type(self.model).__name__} does not give; "
                "take the variant of the task that generates"
            )
        losses = []
        for start in range(0, len(requests), self.batch_size):
            rows = [request.args for request in requests[start : start + self.batch_size]]
            docs = [self.task_dict[task][split][doc_id] for _, _, _, doc_id, task, split in rows]
            shown = [self._image(row[2](doc), row[4]) for row, doc in zip(rows, docs, strict=True)]
            wanted = [row[1](doc) if callable(row[1]) else row[1] for row, doc in zip(rows, docs, strict=True)]
            found = log_likelihood(shown, [row[0] for row in rows], [text.strip() for text in wanted])
            losses += [GenerationResult((-float(value), bool(greedy))) for value, greedy in found]
            self._tell(rows[0][4], start + len(rows), len(requests))
        return losses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises:
            EvaluationError: always.
        """
        raise EvaluationError(f"{requests[0].task_name}: asks in several rounds; only single questions can be asked")

    def _question(self, row: int, request: Instance) -> _Question:
        prompt, options, _, _, task, _ = request.args
        if options.get("do_sample") or options.get("temperature") or (options.get("num_beams") or 1) > 1:
            raise EvaluationError(f"{task}: wants sampling or beams; models are evaluated greedily, with temperature 0")
        limit, image = int(options.get("max_new_tokens") or MAX_NEW_TOKENS), self._shown(request)
        length = self._length_of(image, prompt) if self._length_of else len(prompt)
        return _Question(prompt, limit, length, question_key(prompt, image, limit), row)

    def _batches(self, questions: list[_Question]) -> Iterator[list[_Question]]:
        """Questions with equal limits, and of equal length where that is what the model can answer together."""

        def kind(one: _Question) -> tuple[int, int]:
            return one.max_new_tokens, -one.length if self._length_of else 0

        ordered = sorted(questions, key=lambda one: (one.max_new_tokens, -one.length, one.row))
        for _, group in groupby(ordered, key=kind):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    def _shown(self, request: Instance) -> Shown:
        _, _, visual, doc_id, task, split = request.args
        return self._image(visual(self.task_dict[task][split][doc_id]), task)

    def _image(self, visuals: Sequence[Any] | None, task: str) -> Shown:
        if not visuals:
            return None
        if self.images == "all":
            shown = [_visual(one, task) for one in visuals]
            return shown[0] if len(shown) == 1 and isinstance(shown[0], Image.Image) else shown
        other = next((one for one in visuals if not isinstance(one, Image.Image)), None)
        if other is not None:
            raise EvaluationError(
                f"{task}: shows a {type(other).__name__} (a video or sound?); only images can be shown, "
                "and with `images: all` videos"
            )
        if len(visuals) > 1 and self.images == "one":
            raise EvaluationError(
                f"{task}: shows {len(visuals)} images at once and the model takes one; "
                "give the benchmark `images: all` to show all, or `images: first` to show the first"
            )
        image: Image.Image = visuals[0]
        return image.convert("RGB")

    def _tell(self, task: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(task, done, total)


def _visual(shown: Any, task: str) -> Image.Image | tuple[Image.Image, ...]:
    """An image in RGB, or some frames of a video, of which tasks give the path."""
    if isinstance(shown, Image.Image):
        return shown.convert("RGB")
    if not isinstance(shown, str):
        raise EvaluationError(f"{task}: shows a {type(shown).__name__}; only images and files of videos can be shown")
    try:
        return some_frames(Path(shown))
    except DataError as error:
        raise EvaluationError(f"{task}: {error}") from error


def _printable(text: str) -> str:
    """A text without the control characters of an untrained model, which spreadsheets and JSON readers refuse."""
    return "".join(mark for mark in text if mark.isprintable() or (mark.isspace() and ord(mark) not in range(11, 32)))


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """A text up to the first of the stops."""
    stops = [stops] if isinstance(stops, str) else stops or ()
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]
