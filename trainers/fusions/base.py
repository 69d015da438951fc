"""What every fusion offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from trainers.contracts import Tokens
from trainers.representation import Choice

if TYPE_CHECKING:
    from trainers.data.batch import Batch


class Fusion(nn.Module):
    """How the tokens of images reach the language model. At the first step that one computes exactly what it did alone.

    A fusion with weights holds them itself, so that they are trained as the part `fusion`.

    Attributes:
        spliced: whether image tokens stand among the language model's own, where their similarity can be measured.
        units: the modules of a fusion that FSDP shards one at a time.
        option: the number after "@".
    """

    spliced: ClassVar[bool] = False
    units: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(self, option: int | None = None) -> None:
        super().__init__()
        self.option = option

    def attach(self, llm: Any) -> None:
        """Hook the fusion into the language model, which computes what it did before."""

    def positions(self, count: int) -> int:
        """How many positions an image of so many tokens takes."""
        raise NotImplementedError

    def forward(self, text_embeds: Tensor, tokens: Tokens | None, batch: Batch) -> dict[str, Any]:
        """The arguments with which the language model is called.

        Args:
            text_embeds: (B, T, width) embeddings of the positions' tokens.
            tokens: those of the batch's images; None where it has none.
            batch: what they are from; its `places` say which image a position shows.
        """
        raise NotImplementedError


def make_fusion(choice: Choice) -> Fusion:
    """Make the fusion that a representation names."""
    made: Fusion = choice.load()(choice.option)
    return made
