"""The benchmarks, one for each kind of question, with the scale of their scores.

Floors are written down here, and a test measures them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from studies.micro.world import names
from studies.micro.world.language.questions import KINDS, Question, questions
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.scene import Scene, scene
from studies.micro.world.seeded_rng import SeededRng


@dataclass(frozen=True)
class MicroBenchmark:
    """A benchmark of the world.

    Attributes:
        name: of the benchmark.
        answers: all answers that there can be.
        floor: accuracy in percent without seeing the image: of the best constant answer to each template.
        ceiling: accuracy in percent of a model that answers everything right.
    """

    name: str
    answers: tuple[str, ...]
    floor: float
    ceiling: float = 100.0


_SHAPE_ANSWERS = (*names.COLOURS, *names.SHAPES, *names.TEXTURES, *names.SIZES)
_SPOTS = tuple(sorted({part for species in SPECIES.values() for part in species.spots.values()}))

BENCHMARKS: dict[str, MicroBenchmark] = {
    "attribute": MicroBenchmark("micro_attribute", (*_SHAPE_ANSWERS, *SPECIES, *names.BACKGROUNDS), 25.2),
    "count": MicroBenchmark("micro_count", names.NUMBERS, 35.4),
    "relation": MicroBenchmark("micro_relation", (*names.SIDES, "above", "below", *names.SHAPES), 25.4),
    "existence": MicroBenchmark("micro_existence", ("yes", "no"), 53.7),
    "part": MicroBenchmark("micro_part", (*_SPOTS, "left", "right", "upper", "lower", "belly", *names.COLOURS), 19.0),
    "reading": MicroBenchmark("micro_reading", (*names.WORDS, *names.DIGITS), 11.1),
}


def benchmark(seed: int, kind: str, split: str = "test") -> Iterator[tuple[Scene, Question]]:
    """Questions of one kind without end, one for each scene that offers one.

    Args:
        seed: of the world.
        kind: one of `KINDS`.
        split: of the scenes.
    """
    index = 0
    while True:
        shown = scene(seed, split, index)
        question = _one(shown, kind)
        if question:
            yield shown, question
        index += 1


def _one(shown: Scene, kind: str) -> Question | None:
    offered = questions(shown, (kind,))
    return SeededRng("benchmark", shown.key, kind).pick(offered) if offered else None


def floor(asked: list[Question]) -> float:
    """Accuracy in percent of the best constant answer to each template, on questions of one kind."""
    answers: dict[str, Counter[str]] = {}
    for question in asked:
        answers.setdefault(question.template, Counter())[question.answer] += 1
    return 100 * sum(max(counts.values()) for counts in answers.values()) / len(asked)


def measured_floors(count: int) -> dict[str, float]:
    """Measure the floor of every kind on this many scenes. 20,000 scenes gave the recorded floors."""
    sample: dict[str, list[Question]] = {kind: [] for kind in KINDS}
    for index in range(count):
        shown = scene(0, "floor", index)
        for kind in KINDS:
            question = _one(shown, kind)
            if question:
                sample[kind].append(question)
    return {kind: floor(asked) for kind, asked in sample.items()}
