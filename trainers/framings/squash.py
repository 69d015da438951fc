"""One square view, to whose sides an image is stretched."""

from __future__ import annotations

from typing import ClassVar

from trainers.framings.letterbox import Letterbox
from trainers.framings.square import SQUASH


class Squash(Letterbox):
    """One square view of each frame, without bars."""

    square: ClassVar[str] = SQUASH
