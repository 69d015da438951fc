"""Fusions: the language model is what it was before it sees an image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support import tiny
from trainers.contracts import Tokens
from trainers.data.batch import Batch
from trainers.fusions import make_fusion
from trainers.model.loading import load_llm
from trainers.representation import Choice, words


@pytest.mark.parametrize("word", words("fusion"))
def test_text_alone_is_what_it_was(tmp_path: Path, word: str) -> None:
    llm, _ = load_llm(str(tiny.llm(tmp_path / "llama")))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = llm(input_ids=ids).logits
        fusion = make_fusion(Choice(word))
        fusion.attach(llm)
        batch = Batch(("a",), ids, ids, torch.ones_like(ids), torch.full_like(ids, -1))
        after = llm(**fusion(llm.get_input_embeddings()(ids), None, batch)).logits
    assert torch.equal(before, after)


def test_splice_puts_each_token_in_its_place() -> None:
    fusion, text = make_fusion(Choice("splice")), torch.zeros(2, 4, 1)
    places = torch.tensor([[-1, 0, 0, 1], [2, -1, -1, -1]])
    tokens = Tokens(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), (2, 1, 1))
    ids = torch.zeros_like(places)
    inputs = fusion(text, tokens, Batch(("a", "b"), ids, ids, ids, places))
    assert inputs["inputs_embeds"][..., 0].tolist() == [[0, 1, 2, 3], [4, 0, 0, 0]]
    assert fusion.positions(7) == 7
