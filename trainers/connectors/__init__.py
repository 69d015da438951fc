"""Connectors: a map of vision features in, tokens of the language model's width out.

    connector = make_connector(ConnectorChoice("pool", 12), grid=(24, 24), in_width=1024, out_width=2048, seed=0)
    connector(features)          # (batch, 24, 24, 1024) -> (batch, 144, 2048)

A new connector is one file with a subclass of `Connector`, and one line in `trainers.representation.CONNECTORS`.
"""

from trainers.connectors.base import CONNECTORS, Connector, connector_class, make_connector

__all__ = ["CONNECTORS", "Connector", "connector_class", "make_connector"]
