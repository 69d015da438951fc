"""What every connector offers, and how its weights are initialised.

A connector's initial weights depend on (seed, kind, widths) alone, never on the global generator, which is neither
read nor moved: candidates of equal widths start equal, whatever was built or trained before, and the option (how many
tokens) does not change where they start either.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import nn

from trainers.contracts import Features, Layout, MapShape, Seen, Tokens
from trainers.errors import SpaceError
from trainers.representation import PIECES, Choice


class Connector(nn.Module):
    """Turns vision features into tokens of the language model's width.

    A subclass raises SpaceError for shapes that it cannot take. Most are a `MapConnector`, which takes one map.
    """

    @classmethod
    def make(cls, shapes: Sequence[MapShape], out_width: int, option: int | None, newline: bool) -> Connector:
        """Build one, without first weights.

        Args:
            shapes: of the features that it is given.
            out_width: width of the language model's embeddings.
            option: the number after "@".
            newline: whether rows of tiles' tokens shall end with a learned token.
        """
        raise NotImplementedError

    def count(self, layout: Layout) -> int:
        """How many tokens an image becomes."""
        raise NotImplementedError

    def forward(self, features: tuple[Features, ...], seen: Seen) -> Tokens:
        """The tokens of images.

        Args:
            features: of the shapes that the connector was made for, each of all views.
            seen: the images.
        """
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every parameter of linear and normalisation layers, as torch does by default and LLaVA too.

        A subclass with parameters of its own, such as learned queries, fills those as well.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
                if layer.bias is not None:
                    bound = 1 / math.sqrt(layer.in_features)
                    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
            elif isinstance(layer, nn.LayerNorm):
                for parameter, start in ((layer.weight, 1.0), (layer.bias, 0.0)):
                    if parameter is not None:  # as in a norm without weights of its own
                        nn.init.constant_(parameter, start)


def make_connector(
    choice: Choice,
    shapes: Sequence[MapShape],
    out_width: int,
    seed: int,
    *,
    newline: bool = False,
    branch: int = 0,
) -> Connector:
    """Make a connector, float32 on the CPU.

    Args:
        choice: the kind and its option.
        shapes: of the features that it is given.
        out_width: width of the language model's embeddings.
        seed: decides the first weights.
        newline: whether rows of tiles' tokens shall end with a learned token.
        branch: which of several it is; they start differently.

    Raises:
        SpaceError: the shapes do not suit the connector.
    """
    connector = shape_connector(choice, shapes, out_width, newline=newline)
    connector.to_empty(device="cpu")
    widths = "+".join(str(shape.width) for shape in shapes)
    named = f"{seed}/{choice.kind}/{widths}/{out_width}" + (f"/{branch}" if branch else "")
    digest = hashlib.sha256(named.encode()).digest()
    connector.initialise(torch.Generator().manual_seed(int.from_bytes(digest[:8], "big")))
    return connector


def shape_connector(choice: Choice, shapes: Sequence[MapShape], out_width: int, *, newline: bool = False) -> Connector:
    """A connector on the meta device: it counts tokens and parameters at no cost, and does not draw random numbers."""
    kind: type[Connector] = choice.load()
    with torch.device("meta"):
        return kind.make(shapes, out_width, choice.option, newline)


def required(option: int | None, kind: str) -> int:
    """The option of a connector that needs one.

    Raises:
        SpaceError: there is none.
    """
    if option is None:
        raise SpaceError(f"the connector {kind!r} needs a number, {PIECES[kind].option}: e.g. '{kind}@2'")
    return option
