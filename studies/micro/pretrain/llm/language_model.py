"""The tiny LLM: Llama's architecture, trained on text about the cells that image tokens will replace.

    <s> user: CELLS question assistant: answer </s> user: question assistant: answer </s> ...
    <s> CELLS caption

It never sees a picture. CELLS are the words for what is in each cell of the scene (`cells`). The embeddings of a cell's
words are added up to one token, with random weights and noise, so that the LLM also reads a connector's tokens, which
say the same less clearly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.micro import world
from studies.micro.pretrain.llm.cells import GRID, cells
from studies.micro.pretrain.llm.induction_init import init_induction_heads
from studies.micro.pretrain.llm.tokenizer import make_tokenizer
from studies.micro.pretrain.optimise import Schedule, optimise, seeded
from studies.micro.pretrain.recipes import PROBE_SPLIT, SPLIT, WORLD_SEED, LanguageRecipe
from studies.micro.pretrain.vit import from_seed, store
from studies.micro.world.seeded_rng import SeededRng
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.utils.progress import Reporter

KINDS_OF_TEXT = (
    "answers and captions after a grid of cells, the words for what is in each added up to one token; first of scenes "
    "with one thing, then with more"
)
_CELLS = [IMAGE_ID] * GRID**2
_CAPTIONS = 0.3  # share of the sequences
_QUESTIONS = 8  # at most, in one conversation
_NOISE = 0.3  # of a cell, in deviations of the words' embeddings
_POOL = 128  # sequences that are sorted by length together, so that little is padded


@dataclass(frozen=True, eq=False)
class Sequence:
    """A text to train on.

    Attributes:
        input_ids: token ids, IMAGE_ID for each cell.
        labels: the ids that are learnt, IGNORE_INDEX elsewhere.
        words: (GRID * GRID, V) the weight of each word in each cell; every row has length 1, or 0 without words.
    """

    input_ids: list[int]
    labels: list[int]
    words: Tensor


def make_llm(recipe: LanguageRecipe, words: int) -> Any:
    """Make a LlamaForCausalLM with tied embeddings, initialised from the recipe's seed alone.

    Args:
        recipe: its size and seed.
        words: of the vocabulary.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.depth,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.04,
    )
    model = from_seed(recipe.seed, lambda: LlamaForCausalLM(config))
    init_induction_heads(model, torch.Generator().manual_seed(recipe.seed + 1))
    return model


class Texts:
    """Makes sequences to train on, each a pure function of its seed, number and progress."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.get_vocab()
        self._seed = seed

    def sequence(self, number: int, progress: float) -> Sequence:
        """A sequence on a scene, which has one thing at first and all of its things in the end.

        A fact among few is learnt sooner, and then helps with many.

        Args:
            number: of the sequence.
            progress: share of the training that is done.
        """
        rng = SeededRng("text", self._seed, number)
        scene = _simpler(world.scene(WORLD_SEED, SPLIT, number), progress, rng)
        if rng.chance(_CAPTIONS):
            return self.caption(scene, self.words(scene, rng))
        return self.conversation(scene, rng.shuffled(_asked(scene))[:_QUESTIONS], self.words(scene, rng))

    def words(self, scene: world.Scene, rng: SeededRng | None = None) -> Tensor:
        """The weights of the words in each cell; see `Sequence.words`.

        Args:
            scene: that the cells show.
            rng: makes the words of a cell differ in weight; without it all are equal.
        """
        loud = torch.zeros(GRID**2, len(self._ids))
        for cell, bag in enumerate(cells(scene)):
            for word in bag:
                loud[cell, self._ids[word]] += rng.uniform(0.5, 1.5) if rng else 1.0
        return F.normalize(loud, dim=1)

    def caption(self, scene: world.Scene, words: Tensor) -> Sequence:
        """A caption, as the template "plain" writes it."""
        told = self._encode(world.captions(scene))
        begin = [*self._encode("<s>"), *_CELLS]
        return Sequence(begin + told, [IGNORE_INDEX] * len(begin) + told, words)

    def conversation(self, scene: world.Scene, asked: list[world.Question], words: Tensor) -> Sequence:
        """A conversation, as the template "chat" writes it."""
        ids = [*self._encode("<s> user:"), *_CELLS]
        labels = [IGNORE_INDEX] * len(ids)
        for place, question in enumerate(asked):
            given = self._encode(f"{'user: ' if place else ''}{question.question} assistant:")
            answer = self._encode(f"{question.answer} </s>")
            ids += given + answer
            labels += [IGNORE_INDEX] * len(given) + answer
        return Sequence(ids, labels, words)

    def _encode(self, text: str) -> list[int]:
        return [self._ids[word] for word in text.split()]


def _simpler(scene: world.Scene, progress: float, rng: SeededRng) -> world.Scene:
    """The scene with some of its things left out: one is left at first, all of them in the end."""
    things = rng.shuffled([thing for thing in (*scene.shapes, scene.creature, scene.sign) if thing])
    kept = things[: max(1, round(len(things) * min(1.0, 1.6 * progress + rng.uniform(-0.2, 0.3))))]
    return replace(
        scene,
        key=f"{scene.key}/{len(kept)}",
        shapes=tuple(shape for shape in scene.shapes if shape in kept),
        creature=scene.creature if scene.creature in kept else None,
        sign=scene.sign if scene.sign in kept else None,
    )


def _asked(scene: world.Scene) -> list[world.Question]:
    """The questions on a scene, drawn twice, without repetition."""
    alike = [scene, replace(scene, key=f"{scene.key}/again")]
    return list({question.question: question for one in alike for question in world.questions(one)}.values())


def batches(texts: Texts, recipe: LanguageRecipe) -> Iterator[list[Sequence]]:
    """Batches without end, of sequences of similar length.

    Args:
        texts: makes the sequences.
        recipe: the batch size, the number of steps and the seed.
    """
    step = number = 0
    while True:
        pool = [texts.sequence(number + i, step / recipe.steps) for i in range(_POOL)]
        number += _POOL
        pool.sort(key=lambda sequence: len(sequence.input_ids))
        alike = [pool[i : i + recipe.batch] for i in range(0, _POOL, recipe.batch)]
        for chosen in SeededRng("batches", recipe.seed, number).shuffled(alike):
            yield chosen
            step += 1


def predict(model: Any, chosen: list[Sequence], noise: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Predict the next tokens of sequences.

    Args:
        model: the LLM.
        chosen: B sequences, padded to T positions.
        noise: random numbers for the cells' tokens; without it they are exact.

    Returns:
        Logits (B, T - 1, V), and targets (B, T - 1), which are IGNORE_INDEX where nothing is learnt.
    """
    longest = max(len(sequence.input_ids) for sequence in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for row, sequence in enumerate(chosen):
        ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
        labels[row, : len(sequence.input_ids)] = torch.tensor(sequence.labels)
    table = model.get_input_embeddings().weight
    told = torch.stack([sequence.words for sequence in chosen]) @ table
    if noise is not None:
        told = told * (0.5 + 1.5 * torch.rand(len(told), 1, 1, generator=noise))
        told = told + _NOISE * table.detach().std() * torch.randn(told.shape, generator=noise)
    embedded = F.embedding(ids.clamp(min=0), table)
    embedded = embedded.masked_scatter((ids == IMAGE_ID).unsqueeze(-1), told)
    return model(inputs_embeds=embedded, use_cache=False).logits[:, :-1], labels[:, 1:]


def train_llm(recipe: LanguageRecipe, folder: Path, report: Reporter) -> dict[str, float]:
    """Train the LLM and store it in float16.

    Args:
        recipe: how it is made.
        folder: where it is stored.
        report: is called with how training goes.

    Returns:
        Figures for its card.
    """
    tokenizer = make_tokenizer(recipe.positions)
    model = make_llm(recipe, len(tokenizer))
    stream = batches(Texts(tokenizer, recipe.seed), recipe)

    def loss(step: int) -> Tensor:
        logits, targets = predict(model, next(stream), seeded(recipe.seed, step))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)

    schedule = Schedule(recipe.steps, recipe.lr, recipe.warmup, recipe.weight_decay, recipe.adam)
    last = optimise(model, loss, schedule, report=report)
    store(model, folder)
    tokenizer.save_pretrained(folder)
    return {"training loss at the end": last}


@torch.no_grad()
def answering(folder: Path, scenes: int, split: str = PROBE_SPLIT) -> dict[str, float]:
    """Share of questions answered right from the cells, over all and per kind, with the stored weights.

    All answers are single words: an answer is right when the most likely tokens after the question are it and the end.

    Args:
        folder: of the model.
        scenes: how many scenes are asked about.
        split: of the scenes.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    texts = Texts(AutoTokenizer.from_pretrained(folder), 0)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right: dict[str, list[bool]] = {"all": []}
    for number in range(scenes):
        scene = world.scene(WORLD_SEED, split, number)
        for question in world.questions(scene):
            logits, targets = predict(model, [texts.conversation(scene, [question], texts.words(scene))])
            good = bool((logits.argmax(dim=-1) == targets)[targets != IGNORE_INDEX].all())
            right["all"].append(good)
            right.setdefault(question.kind, []).append(good)
    return {kind: sum(goods) / len(goods) for kind, goods in right.items() if goods}
