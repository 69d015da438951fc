"""Questions with one-word answers, of six kinds that need different abilities of an encoder.

attribute and existence need what words name; count and relation need what is where; part needs to tell the points of a
body apart, left from right among them; reading needs fine detail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from studies.micro.world import names
from studies.micro.world.language.captions import spot_name
from studies.micro.world.language.facts import naming, place, relations, things
from studies.micro.world.language.grammar import DIRECTIONS, OPPOSITE, QUESTIONS, fill
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.scene import Scene, Shape
from studies.micro.world.seeded_rng import SeededRng

KINDS = tuple(QUESTIONS)


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: one of `KINDS`.
        question: its text.
        answer: one word.
        template: which wording of the kind it is, with the answers if it offers some. Without the image all questions
            of a template look alike, and the floor is measured by template.
    """

    kind: str
    question: str
    answer: str
    template: str = ""


def questions(scene: Scene, kinds: Sequence[str] = KINDS) -> list[Question]:
    """About six questions on a scene, none of them twice.

    Args:
        scene: to be asked about.
        kinds: the kinds of questions, in the order wanted.
    """
    asked: dict[str, Question] = {}
    for kind in kinds:
        for question in _ASK[kind](scene, SeededRng("questions", kind, scene.key)):
            asked.setdefault(question.question, question)
    return list(asked.values())


def _ask(kind: str, template: str, answer: str, /, **slots: str) -> Question:
    return Question(kind, fill(QUESTIONS[kind][template], **slots), answer, template)


def _attribute(scene: Scene, rng: SeededRng) -> list[Question]:
    asked = []
    for asks in rng.shuffled(("colour", "colour", "kind", "kind", "texture", "size")):
        shapes = [(naming(scene, shape, without=asks), shape) for shape in scene.shapes]
        named = [(name, shape) for name, shape in shapes if name]
        if named:
            name, shape = rng.pick(named)
            template = "shape" if asks == "kind" else asks
            asked.append(_ask("attribute", template, getattr(shape, asks), thing=name))
    del asked[2 if scene.creature is None else 1 :]
    if scene.creature and rng.chance(0.3):
        asked.append(_ask("attribute", "animal", scene.creature.species))
    elif rng.chance(0.15):
        asked.append(_ask("attribute", "background", scene.background))
    return asked


def _count(scene: Scene, rng: SeededRng) -> list[Question]:
    """One count, where there is no creature. High counts are rare, so the higher, the likelier asked."""
    if scene.creature:
        return []
    options = [_ask("count", "shapes", names.NUMBERS[len(scene.shapes)])]
    for template, attribute, slot, values in (
        ("kind", "kind", "things", tuple(names.SHAPES)),
        ("colour", "colour", "colour", tuple(names.COLOURS)),
        ("texture", "texture", "texture", names.TEXTURES),
    ):
        have = Counter(getattr(shape, attribute) for shape in scene.shapes)
        for value in values:
            shown = names.SHAPES[value] if attribute == "kind" else value
            options.append(_ask("count", template, names.NUMBERS[have[value]], **{slot: shown}))
    by_answer: dict[str, list[Question]] = {}
    for option in options:
        by_answer.setdefault(option.answer, []).append(option)
    answers = list(by_answer)
    return [rng.pick(by_answer[rng.weighted(answers, [_COUNT_WEIGHTS[answer] for answer in answers])])]


_COUNT_WEIGHTS = {"zero": 0.35, "one": 0.7, "two": 2.0, "three": 5.0, "four": 12.0}


def _relation(scene: Scene, rng: SeededRng) -> list[Question]:
    options: dict[str, list[Question]] = {"direction": [], "neighbour": [], "side": []}
    for a, towards, b in relations(scene):
        for thing, way, other in ((a, towards, b), (b, OPPOSITE[towards], a)):
            slots = {"thing": thing.name, "other": other.name}
            options["direction"].append(_ask("relation", "direction", way, **slots))
            if isinstance(thing.item, Shape) and _alone(scene, thing.item, way, other.item):
                slots = {"direction": DIRECTIONS[way], "thing": other.name}
                options["neighbour"].append(_ask("relation", "neighbour", thing.item.kind, **slots))
    for thing in things(scene):
        where = place(scene, thing.item)
        if where in names.SIDES:
            options["side"].append(_ask("relation", "side", where, thing=thing.name))
    asked = []
    for template in rng.shuffled(("direction", "direction", "neighbour", "side")):
        if options[template]:
            asked.append(rng.pick(options[template]))
            options[template].remove(asked[-1])
    return asked[:1]


def _alone(scene: Scene, shape: Shape, way: str, other: object) -> bool:
    """Whether no second shape is in that direction of the other thing, not even diagonally."""
    axis, sign = ("x", -1) if way == "left" else ("x", 1) if way == "right" else ("y", -1 if way == "above" else 1)
    rest = (s for s in scene.shapes if s is not shape and s is not other)
    return all(sign * (getattr(s, axis) - getattr(other, axis)) < 3 for s in rest)


def _existence(scene: Scene, rng: SeededRng) -> list[Question]:
    """Two, "yes" as likely as "no" in every template."""
    asked = []
    templates = ["coloured", "coloured", "textured", "colour"] if scene.shapes else []
    for template in rng.shuffled([*templates, *(["species"] if scene.creature else [])])[:2]:
        asked.append(_exists(scene, rng, template, rng.chance(0.5)))
    if rng.chance(0.2):
        asked[:1] = [_ask("existence", "animal", "yes" if scene.creature else "no")]
    elif rng.chance(0.2):
        asked[:1] = [_ask("existence", "sign", "yes" if scene.sign else "no")]
    return asked


def _exists(scene: Scene, rng: SeededRng, template: str, there: bool) -> Question:
    """A question whose answer is yes or no as `there` says. Half of the false ones join what two shapes have."""
    answer = "yes" if there else "no"
    if template == "species":
        own = scene.creature.species if scene.creature else ""
        other = rng.pick([species for species in SPECIES if species != own])
        return _ask("existence", template, answer, species=own if there else other)
    attribute = "texture" if template == "textured" else "colour"
    values = names.TEXTURES if template == "textured" else tuple(names.COLOURS)
    if template == "colour":
        present = {shape.colour for shape in scene.shapes}
        value = rng.pick([value for value in values if (value in present) == there])
        return _ask("existence", template, answer, colour=value)
    have = {(getattr(shape, attribute), shape.kind) for shape in scene.shapes}
    if there:
        value, kind = rng.pick(sorted(have))
    else:
        absent = [(value, kind) for value in values for kind in names.SHAPES if (value, kind) not in have]
        shown = {value for value, _ in have}, {kind for _, kind in have}
        joined = [(value, kind) for value, kind in absent if value in shown[0] and kind in shown[1]]
        half = [(value, kind) for value, kind in absent if (value in shown[0]) != (kind in shown[1])]
        value, kind = rng.pick(joined if joined and rng.chance(0.5) else half)
    return _ask("existence", template, answer, **{attribute: value, "kind": kind})


def _part(scene: Scene, rng: SeededRng) -> list[Question]:
    creature = scene.creature
    if creature is None:
        return []
    species = SPECIES[creature.species]
    asked: list[Question] = []
    sides: list[Question] = []
    for dot in creature.dots:
        asked.append(_ask("part", "dot", species.spots[dot.keypoint], dot=dot.colour))
        for pair in species.pairs:
            if dot.keypoint in pair:
                (one, part), (other, _) = (spot_name(creature.species, point).split(" ", 1) for point in pair)
                answer = one if dot.keypoint == pair[0] else other
                question = _ask("part", "side", answer, dot=dot.colour, one=one, other=other, part=part)
                sides.append(replace(question, template=f"{one} or {other}"))
    asked += sides[:1]
    parts = rng.shuffled(tuple(creature.parts))
    asked += [_ask("part", "colour", creature.parts[part], part=part) for part in parts[:2]]
    return asked


def _reading(scene: Scene, rng: SeededRng) -> list[Question]:
    if scene.sign is None:
        return []
    return [_ask("reading", "digit" if scene.sign.text in names.DIGITS else "word", scene.sign.text)]


_ASK: dict[str, Callable[[Scene, SeededRng], list[Question]]] = {
    "attribute": _attribute,
    "count": _count,
    "relation": _relation,
    "existence": _existence,
    "part": _part,
    "reading": _reading,
}
