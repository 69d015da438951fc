"""Framings: how an image becomes the views that encoders are shown.

    framing = make_framing(Choice("letterbox"), size=336, patch=14)
    layout = framing.layout(640, 480)                # from the size alone
    framing.views([image], layout, size=336, patch=14, fill=mean)      # (1, 3, 336, 336) uint8

A new framing is one file with a subclass of `Framing`, and one line in `trainers.representation.PIECES`.
"""

from trainers.framings.base import Framing, make_framing, pixels

__all__ = ["Framing", "make_framing", "pixels"]
