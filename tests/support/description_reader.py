"""Answers questions about a scene of the micro world from its description alone."""

from __future__ import annotations

import re

from studies.micro.world import (
    Question,
)
from studies.micro.world import names as n


class Reader:
    """Answers from the text alone, knowing the grammar and nothing of the code that writes it."""

    INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

    def __init__(self, text: str) -> None:
        self.shapes: list[tuple[set[str], str]] = []
        self.places: dict[str, str] = {}
        self.relations: set[tuple[str, str, str]] = set()
        self.parts: dict[str, str] = {}
        self.dots: dict[str, str] = {}
        self.animal = self.sign = self.background = ""
        for sentence in text.removesuffix(" .").split(" . "):
            self.read(sentence)

    def read(self, sentence: str) -> None:
        if found := re.fullmatch(r"(?:an? ((?:small|large) .+) is (.+)|(.+) is an? ((?:small|large) .+))", sentence):
            self.shapes.append((set((found[1] or found[4]).split()), found[2] or found[3]))
        elif found := re.search(r"\bbackground is (\w+)|on an? (\w+) background", sentence):
            self.background = found[1] or found[2]
        elif found := re.fullmatch(r"(?:there is|the animal is) an? (\w+) (?!at .* with|in .* with)(.+)", sentence):
            self.animal, self.places[found[1]] = found[1], found[2]
        elif found := re.fullmatch(r"(?:there is )?a sign (.+) (?:has|with) the (?:word|digit) (\w+)", sentence):
            self.places["sign"], self.sign = found[1], found[2]
        elif found := re.fullmatch(r"(?:a|the) (\w+) dot is at (?:its|the) (.+)", sentence):
            self.dots[found[1]] = found[2]
        elif found := re.fullmatch(r"the (.+) is (left|right|above|below)(?: of)? the (.+)", sentence):
            self.relate(found[1], found[2], found[3])
        elif found := re.fullmatch(r"(left|right|above|below)(?: of)? the (.+) is the (.+)", sentence):
            self.relate(found[3], found[1], found[2])
        elif found := re.fullmatch(r"(?:its|the) (.+) is (\w+)", sentence):
            self.parts[found[1]] = found[2]

    def relate(self, a: str, way: str, b: str) -> None:
        self.relations |= {(a, way, b), (b, self.INVERSE[way], a)}

    def alike(self, phrase: str) -> list[tuple[set[str], str]]:
        words = set(phrase.split()) - {"shape", "shapes"}
        words = {singular for word in words for singular in n.SHAPES if word == n.SHAPES[singular]} or words
        return [shape for shape in self.shapes if words <= shape[0]]

    def answer(self, question: Question) -> str:
        text = question.question.removesuffix(" ?")
        yes = {True: "yes", False: "no"}
        if text == "what colour is the background":
            return self.background
        if text == "which animal is there":
            return self.animal
        if question.kind == "reading":
            return self.sign
        if found := re.fullmatch("what colour is the (.+)", text):
            return self.parts.get(found[1]) or self.one(found[1], n.COLOURS)
        if found := re.fullmatch("what is the (.+)", text):
            return self.one(found[1], n.SHAPES)
        if found := re.fullmatch("which texture has the (.+)", text):
            return self.one(found[1], n.TEXTURES)
        if found := re.fullmatch("is the (.+) large or small", text):
            return self.one(found[1], n.SIZES)
        if found := re.fullmatch("how many (.+) are there", text):
            return n.NUMBERS[len(self.alike(found[1]))]
        if found := re.fullmatch("where is the (.+) seen from the (.+)", text):
            return next(way for a, way, b in self.relations if (a, b) == (found[1], found[2]))
        if found := re.fullmatch("what shape is (left|right|above|below)(?: of)? the (.+)", text):
            near = {a.split()[-1] for a, way, b in self.relations if (way, b) == (found[1], found[2])}
            (kind,) = near & set(n.SHAPES)
            return kind
        if found := re.fullmatch("on which side of the image is the (.+)", text):
            where = self.places.get(found[1]) or self.alike(found[1])[0][1]
            return where.removeprefix("at the ")
        if found := re.fullmatch("is there an? (.+)", text):
            whole = {"animal": self.animal, "sign": self.sign}
            if found[1] in whole:
                return yes[bool(whole[found[1]])]
            return yes[found[1] == self.animal or bool(self.alike(found[1]))]
        if found := re.fullmatch("what part is at the (.+) dot", text):
            return self.dots[found[1]].split()[-1]
        found = re.fullmatch(r"is the (\w+) dot at the (\w+) or the (\w+) .+", text)
        assert found
        return next(side for side in found.groups()[1:] if side in self.dots[found[1]].split())

    def one(self, phrase: str, options: object) -> str:
        (shape,) = self.alike(phrase)
        (word,) = shape[0] & set(options)  # type: ignore[call-overload]
        return str(word)
