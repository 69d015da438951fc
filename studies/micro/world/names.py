"""The closed sets of the world: colours, shapes, textures, backgrounds, words. Data only."""

from __future__ import annotations

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (218, 32, 38),
    "orange": (255, 140, 0),
    "yellow": (252, 228, 40),
    "green": (36, 150, 56),
    "cyan": (70, 214, 228),
    "blue": (32, 64, 214),
    "purple": (128, 36, 160),
    "pink": (255, 140, 196),
}
LIGHT = frozenset({"orange", "yellow", "cyan", "pink"})  # the texture on these is dark, on the others white

BACKGROUNDS: dict[str, tuple[RGB, RGB]] = {  # the two ends of a gradient
    "white": ((255, 255, 255), (232, 232, 232)),
    "grey": ((176, 176, 176), (146, 146, 146)),
    "beige": ((238, 216, 178), (216, 190, 146)),
    "black": ((62, 62, 66), (26, 26, 30)),
}

SHAPES: dict[str, str] = {  # with their plurals
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
}
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES: dict[str, float] = {"small": 9.0, "large": 14.5}  # radius in pixels of a 96-pixel image
NUMBERS = ("zero", "one", "two", "three", "four")
DIGITS = tuple("0123456789")
WORDS = ("ant", "bell", "cup", "door", "egg", "fox", "hat", "key", "moon", "yak")
DOTS: dict[str, tuple[RGB, RGB]] = {"white": ((255, 255, 255), (0, 0, 0)), "black": ((0, 0, 0), (255, 255, 255))}
SIDES = ("left", "right", "top", "bottom")
DIRECTIONS = ("left", "right", "above", "below")

FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-BoldOblique",
    "STIXGeneralBol",
)
