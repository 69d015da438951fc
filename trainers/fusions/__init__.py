"""Fusions: how the tokens of images reach the language model.

    fusion = make_fusion(Choice("splice"))
    fusion.attach(llm)
    llm(**fusion(text_embeds, tokens, batch))

A new fusion is one file with a subclass of `Fusion`, and one line in `trainers.representation.PIECES`.
"""

from trainers.fusions.base import Fusion, make_fusion

__all__ = ["Fusion", "make_fusion"]
