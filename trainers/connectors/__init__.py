"""Connectors: vision features in, tokens of the language model's width out.

    shapes = (MapShape((24, 24), 1024),)
    connector = make_connector(Choice("pool", 12), shapes, out_width=2048, seed=0)
    connector((features,), seen)          # Features of the views of n images -> Tokens, 144 of each view
    connector.count(layout)               # how many an image of this layout becomes

A new connector is one file with a subclass of `Connector`, or of `MapConnector`, and one line in
`trainers.representation.PIECES`.
"""

from trainers.connectors.base import Connector, make_connector
from trainers.connectors.branches import Branches
from trainers.connectors.maps import MapConnector

__all__ = ["Branches", "Connector", "MapConnector", "make_connector"]
