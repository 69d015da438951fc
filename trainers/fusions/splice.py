"""Image tokens take positions among the text's: LLaVA's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from trainers.contracts import Tokens
from trainers.fusions.base import Fusion

if TYPE_CHECKING:
    from trainers.data.batch import Batch


class Splice(Fusion):
    """A position for each token of an image."""

    spliced: ClassVar[bool] = True

    def positions(self, count: int) -> int:
        return count

    def forward(self, text_embeds: Tensor, tokens: Tokens | None, batch: Batch) -> dict[str, Any]:
        if tokens is None:
            return {"inputs_embeds": text_embeds}
        values = tokens.values.to(text_embeds.dtype)
        return {"inputs_embeds": text_embeds.masked_scatter((batch.places >= 0).unsqueeze(-1), values)}
