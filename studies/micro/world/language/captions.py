"""Captions, and descriptions that leave nothing out."""

from __future__ import annotations

from studies.micro.world import names
from studies.micro.world.language.facts import phrase, place, relations, things
from studies.micro.world.language.grammar import DIRECTIONS, OPPOSITE, PLACES, article, listing, say
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.scene import Creature, Scene, Shape, Sign
from studies.micro.world.seeded_rng import Dice


def captions(scene: Scene) -> str:
    """A truthful caption of one to three short sentences: the things, their colours, the word, at times where it is."""
    dice = Dice("caption", scene.key)
    after: list[str] = []
    phrases = _groups(dice, scene.shapes)
    if scene.creature:
        phrases.append(_animal(dice, scene.creature, after))
    if scene.sign:
        phrases.append(say(dice, "sign", text=scene.sign.text, sort=_sort(scene.sign)))
    phrases = dice.shuffled(phrases) or [say(dice, "nothing")]
    sentences = [say(dice, "scene", things=listing(phrases), background=scene.background)]
    if scene.background not in sentences[0].split():
        sentences.append(say(dice, "second", background=scene.background))
    if dice.chance(0.5):
        sentences += after[:1] if after and dice.chance(0.7) else [_layout(dice, scene)]
    return " ".join(sentence for sentence in sentences if sentence)


def _groups(dice: Dice, shapes: tuple[Shape, ...]) -> list[str]:
    """Noun phrases; shapes of one kind and colour are told together."""
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
        if shape.texture != "plain" or dice.chance(0.3):
            told.append("texture")
        if dice.chance(0.5):
            told.append("size")
        words = phrase(shape, told)
        phrases.append(f"{article(words)} {words}")
    return phrases


def _animal(dice: Dice, creature: Creature, after: list[str]) -> str:
    """A noun phrase with one colour; `after` gets a sentence on another part."""
    first, second = dice.shuffled(tuple(creature.parts))[:2]
    if "body" in creature.parts and dice.chance(0.5):
        first, second = "body", first if first != "body" else second
    style = "with" if first != "body" else dice.pick(("with", "plain"))
    colour = creature.parts[first]
    if style == "plain":
        told = f"{article(colour)} {colour} {creature.species}"
    else:
        told = f"{article(creature.species)} {creature.species} with {article(colour)} {colour} {first}"
    after.append(say(dice, "second colour", species=creature.species, part=second, colour=creature.parts[second]))
    return told


def _layout(dice: Dice, scene: Scene) -> str:
    """One sentence on where something is."""
    pairs, single = relations(scene), things(scene)
    if pairs and dice.chance(0.7):
        a, towards, b = dice.pick(pairs)
        if dice.chance(0.5):
            a, towards, b = b, OPPOSITE[towards], a
        return say(dice, "relation", thing=a.name, direction=DIRECTIONS[towards], other=b.name)
    if single:
        thing = dice.pick(single)
        return say(dice, "position", thing=thing.name, place=PLACES[place(scene, thing.item)])
    return ""


def _sort(sign: Sign) -> str:
    return "digit" if sign.text in names.DIGITS else "word"


def describe(scene: Scene) -> str:
    """All facts that a question can ask for, in sentences of varied wording and order.

    The relation of a pair of things is told once, from either side; what is not told is not there.
    """
    dice = Dice("describe", scene.key)
    blocks = [[say(dice, "background fact", background=scene.background)], _shape_facts(dice, scene)]
    if scene.creature:
        blocks.append(_animal_facts(dice, scene, scene.creature))
    else:
        blocks.append([say(dice, "no animal")])
    if scene.sign:
        where = PLACES[place(scene, scene.sign)]
        blocks.append([say(dice, "sign fact", place=where, text=scene.sign.text, sort=_sort(scene.sign))])
    else:
        blocks.append([say(dice, "no sign")])
    pairs = []
    for a, towards, b in dice.shuffled(relations(scene)):
        if dice.chance(0.5):
            a, towards, b = b, OPPOSITE[towards], a
        pairs.append(say(dice, "relation", thing=a.name, direction=DIRECTIONS[towards], other=b.name))
    return " ".join(sentence for block in [*dice.shuffled(blocks), pairs] for sentence in block)


def _shape_facts(dice: Dice, scene: Scene) -> list[str]:
    count = len(scene.shapes)
    if not count:
        return [say(dice, "no shapes")]
    facts = [say(dice, "single fact") if count == 1 else say(dice, "count fact", number=names.NUMBERS[count])]
    for shape in dice.shuffled(scene.shapes):
        words = phrase(shape, ("size", "colour", "texture"))
        facts.append(say(dice, "shape fact", shape=words, place=PLACES[place(scene, shape)]))
    return facts


def _animal_facts(dice: Dice, scene: Scene, creature: Creature) -> list[str]:
    where = PLACES[place(scene, creature)]
    facts = [say(dice, "part fact", part=part, colour=colour) for part, colour in creature.parts.items()]
    spots = {point: spot_name(creature.species, point) for point in SPECIES[creature.species].spots}
    facts += [say(dice, "dot fact", dot=dot.colour, spot=spots[dot.keypoint]) for dot in creature.dots]
    return [say(dice, "animal fact", species=creature.species, place=where), *dice.shuffled(facts)]


def spot_name(species: str, keypoint: str) -> str:
    """A keypoint as the language names it: "left wing", and "back fin" for a fin."""
    part = SPECIES[species].spots[keypoint]
    return keypoint if part in keypoint.split() else part
