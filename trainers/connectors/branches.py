"""A connector for each encoder, whose tokens a joining puts together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trainers.connectors.base import Connector, make_connector, shape_connector
from trainers.contracts import Features, Layout, MapShape, Seen, Tokens
from trainers.framings import Framing
from trainers.joinings import Joining
from trainers.representation import Choice


class Branches(Connector):
    """Connectors of one kind, side by side.

    Attributes:
        joining: puts their tokens together.
    """

    def __init__(self, connectors: Sequence[Connector], joining: Joining) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(connectors)
        self.joining = joining

    def _each(self) -> list[Connector]:
        return [one for one in self.connectors if isinstance(one, Connector)]  # a ModuleList does not know their type

    def count(self, layout: Layout) -> int:
        return self.joining.count([one.count(layout) for one in self._each()])

    def forward(self, features: tuple[Features, ...], seen: Seen) -> Tokens:
        branches = zip(self._each(), features, strict=True)
        return self.joining.tokens([connector((own,), seen) for connector, own in branches])


def make_branches(
    choice: Choice,
    framing: Framing,
    joining: Joining,
    shapes: Sequence[MapShape],
    out_width: int,
    seed: int | None,
) -> Connector:
    """Make the connector of a representation: one, or one for each encoder where its joining asks for that.

    Args:
        choice: the kind and its option.
        framing: how images become views.
        joining: how encoders are joined.
        shapes: of the features that the joining gives.
        out_width: width of the language model's embeddings.
        seed: decides the first weights; None makes shapes alone, on the meta device.

    Raises:
        SpaceError: the shapes, or those of other images than square ones, do not suit the connector.
    """

    def make(own: Sequence[MapShape], branch: int) -> Connector:
        if seed is None:
            return shape_connector(choice, own, out_width, newline=framing.newline)
        return make_connector(choice, own, out_width, seed, newline=framing.newline, branch=branch)

    if joining.branches == "one":
        made = make(shapes, 0)
    else:
        made = Branches([make([shape], branch) for branch, shape in enumerate(shapes)], joining)
    made.count(framing.layout(1, 1))  # the smallest grid that there is
    return made
