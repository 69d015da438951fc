"""Joinings: how the features, or the tokens, of several encoders become one.

    joining = make_joining(Choice("concat", 24))
    joining.features([clip, dino])          # one map with the channels of both, on a 24 x 24 grid

A new joining is one file with a subclass of `Joining`, and one line in `trainers.representation.PIECES`.
"""

from trainers.joinings.base import Joining, make_joining, on_grid

__all__ = ["Joining", "make_joining", "on_grid"]
