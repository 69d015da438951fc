"""Captions of scenes, and descriptions that leave nothing out."""

from __future__ import annotations

from studies.micro.world import names
from studies.micro.world.language.facts import phrase, place, relations, things
from studies.micro.world.language.grammar import DIRECTIONS, OPPOSITE, PLACES, article, listing, say
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.scene import Creature, Scene, Shape, Sign
from studies.micro.world.seeded_rng import SeededRng


def captions(scene: Scene) -> str:
    """A true caption of one to three short sentences: the things, their colours, the word, and at times a place."""
    rng = SeededRng("caption", scene.key)
    after: list[str] = []
    phrases = _groups(rng, scene.shapes)
    if scene.creature:
        phrases.append(_animal(rng, scene.creature, after))
    if scene.sign:
        phrases.append(say(rng, "sign", text=scene.sign.text, sort=_sort(scene.sign)))
    phrases = rng.shuffled(phrases) or [say(rng, "nothing")]
    sentences = [say(rng, "scene", things=listing(phrases), background=scene.background)]
    if scene.background not in sentences[0].split():
        sentences.append(say(rng, "second", background=scene.background))
    if rng.chance(0.5):
        sentences += after[:1] if after and rng.chance(0.7) else [_layout(rng, scene)]
    return " ".join(sentence for sentence in sentences if sentence)


def _groups(rng: SeededRng, shapes: tuple[Shape, ...]) -> list[str]:
    """Noun phrases; shapes of one kind and colour share a phrase."""
    groups: dict[tuple[str, str], list[Shape]] = {}
    for shape in shapes:
        groups.setdefault((shape.kind, shape.colour), []).append(shape)
    phrases = []
    for (kind, colour), group in groups.items():
        if len(group) > 1:
            phrases.append(f"{names.NUMBERS[len(group)]} {colour} {names.SHAPES[kind]}")
            continue
        shape = group[0]
        told = ["colour"]
        if shape.texture != "plain" or rng.chance(0.3):
            told.append("texture")
        if rng.chance(0.5):
            told.append("size")
        words = phrase(shape, told)
        phrases.append(f"{article(words)} {words}")
    return phrases


def _animal(rng: SeededRng, creature: Creature, after: list[str]) -> str:
    """A noun phrase with one colour; `after` gets a sentence on another part."""
    first, second = rng.shuffled(tuple(creature.parts))[:2]
    if "body" in creature.parts and rng.chance(0.5):
        first, second = "body", first if first != "body" else second
    style = "with" if first != "body" else rng.pick(("with", "plain"))
    colour = creature.parts[first]
    if style == "plain":
        told = f"{article(colour)} {colour} {creature.species}"
    else:
        told = f"{article(creature.species)} {creature.species} with {article(colour)} {colour} {first}"
    after.append(say(rng, "second colour", species=creature.species, part=second, colour=creature.parts[second]))
    return told


def _layout(rng: SeededRng, scene: Scene) -> str:
    """One sentence on where something is."""
    pairs, single = relations(scene), things(scene)
    if pairs and rng.chance(0.7):
        a, towards, b = rng.pick(pairs)
        if rng.chance(0.5):
            a, towards, b = b, OPPOSITE[towards], a
        return say(rng, "relation", thing=a.name, direction=DIRECTIONS[towards], other=b.name)
    if single:
        thing = rng.pick(single)
        return say(rng, "position", thing=thing.name, place=PLACES[place(scene, thing.item)])
    return ""


def _sort(sign: Sign) -> str:
    return "digit" if sign.text in names.DIGITS else "word"


def describe(scene: Scene) -> str:
    """All facts that a question can ask for, in sentences of varied wording and order.

    The relation of a pair of things is told once, from either side. A thing that is not told is not in the scene.
    """
    rng = SeededRng("describe", scene.key)
    blocks = [[say(rng, "background fact", background=scene.background)], _shape_facts(rng, scene)]
    if scene.creature:
        blocks.append(_animal_facts(rng, scene, scene.creature))
    else:
        blocks.append([say(rng, "no animal")])
    if scene.sign:
        where = PLACES[place(scene, scene.sign)]
        blocks.append([say(rng, "sign fact", place=where, text=scene.sign.text, sort=_sort(scene.sign))])
    else:
        blocks.append([say(rng, "no sign")])
    pairs = []
    for a, towards, b in rng.shuffled(relations(scene)):
        if rng.chance(0.5):
            a, towards, b = b, OPPOSITE[towards], a
        pairs.append(say(rng, "relation", thing=a.name, direction=DIRECTIONS[towards], other=b.name))
    return " ".join(sentence for block in [*rng.shuffled(blocks), pairs] for sentence in block)


def _shape_facts(rng: SeededRng, scene: Scene) -> list[str]:
    count = len(scene.shapes)
    if not count:
        return [say(rng, "no shapes")]
    facts = [say(rng, "single fact") if count == 1 else say(rng, "count fact", number=names.NUMBERS[count])]
    for shape in rng.shuffled(scene.shapes):
        words = phrase(shape, ("size", "colour", "texture"))
        facts.append(say(rng, "shape fact", shape=words, place=PLACES[place(scene, shape)]))
    return facts


def _animal_facts(rng: SeededRng, scene: Scene, creature: Creature) -> list[str]:
    where = PLACES[place(scene, creature)]
    facts = [say(rng, "part fact", part=part, colour=colour) for part, colour in creature.parts.items()]
    spots = {point: spot_name(creature.species, point) for point in SPECIES[creature.species].spots}
    facts += [say(rng, "dot fact", dot=dot.colour, spot=spots[dot.keypoint]) for dot in creature.dots]
    return [say(rng, "animal fact", species=creature.species, place=where), *rng.shuffled(facts)]


def spot_name(species: str, keypoint: str) -> str:
    """A keypoint as the language names it: "left wing", and "back fin" for a fin."""
    part = SPECIES[species].spots[keypoint]
    return keypoint if part in keypoint.split() else part
