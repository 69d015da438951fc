"""What every connector offers, and how its weights are initialised.

A connector's initial weights depend on (seed, kind, widths) alone, never on the global generator, which is neither
read nor moved: candidates of equal widths start equal, whatever was built or trained before, and the option (how many
tokens) does not change where they start either.
"""

from __future__ import annotations

import hashlib
import importlib
import math

import torch
from torch import nn

from trainers.errors import SpaceError
from trainers.representation import CONNECTORS, ConnectorChoice

__all__ = ["CONNECTORS", "Connector", "connector_class", "make_connector"]


class Connector(nn.Module):
    """Turns a map of vision features into tokens of the language model's width.

    A subclass takes (grid, in_width, out_width, option), sets `tokens`, and raises SpaceError for a grid that it cannot
    take.

    Attributes:
        tokens: how many tokens an image becomes.
    """

    tokens: int

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The tokens of a batch, row by row.

        Args:
            features: (batch, height, width, in_width).

        Returns:
            (batch, tokens, out_width).
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


def connector_class(kind: str) -> type[Connector]:
    """The class of a kind. Built under `torch.device("meta")`, it counts tokens and parameters at no cost."""
    module, name = CONNECTORS[kind].target.split(":")
    found: type[Connector] = getattr(importlib.import_module(module), name)
    return found


def make_connector(
    choice: ConnectorChoice, grid: tuple[int, int], in_width: int, out_width: int, seed: int
) -> Connector:
    """Make a connector, float32 on the CPU.

    Args:
        choice: the kind and its option.
        grid: (height, width) of the features.
        in_width: channels of the features.
        out_width: width of the language model's embeddings.
        seed: decides the first weights.

    Raises:
        SpaceError: the grid does not suit the connector.
    """
    with torch.device("meta"):  # no default initialisation, which would draw from the global generator
        connector = connector_class(choice.kind)(grid, in_width, out_width, choice.option)
    connector.to_empty(device="cpu")
    digest = hashlib.sha256(f"{seed}/{choice.kind}/{in_width}/{out_width}".encode()).digest()
    connector.initialise(torch.Generator().manual_seed(int.from_bytes(digest[:8], "big")))
    return connector


def required(option: int | None, kind: str) -> int:
    """The option of a connector that needs one.

    Raises:
        SpaceError: there is none.
    """
    if option is None:
        raise SpaceError(f"the connector {kind!r} needs a number, {CONNECTORS[kind].option}: e.g. '{kind}@2'")
    return option
