"""How much of what is computed is padding, and what packing gains: `python -m benchmarks.packing`.

The lengths are made up after LLaVA's 665,298 instruction samples: 40,688 without an image, text of 336 tokens in the
mean, at most 2048 positions, batches of 128 on 8 processes. The wait for the slowest process counts as padding.
`before` is how samples were shared until they were balanced: every eighth one of a batch to each process.

Then a small Llama is trained on a CPU, padded and packed in turn, on samples of the same mix.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from trainers.data.packing import Packed
from trainers.data.sampler import Padded, Schedule, Share, Split, computed
from trainers.model.loss import plain_head, summed_loss
from trainers.model.packed_attention import packed_inputs, prepare_packing

ROWS, WITHOUT_IMAGE, MEAN_TEXT, LONGEST = 665_298, 40_688, 336, 2048
BATCH, WORLD, MICRO = 128, 8, 16


def text_lengths(rows: int) -> np.ndarray:
    """(rows,) tokens, log-normal as conversations are."""
    draws = np.random.default_rng(0).lognormal(0.0, 0.8, rows)
    return np.clip(draws * MEAN_TEXT / draws.mean(), 16, LONGEST).astype(np.int64)


def positions_of(text: np.ndarray, image_tokens: int) -> np.ndarray:
    """(rows,) positions of samples of which as many show an image as LLaVA's do."""
    without = np.random.default_rng(1).random(len(text)) < WITHOUT_IMAGE / ROWS
    return np.minimum(text + np.where(without, 0, image_tokens), LONGEST)


def before(samples: np.ndarray, world: int, micro: int) -> Share:
    """Every `world`-th sample, as they come."""
    whole = -(-len(samples) // world)
    return [[samples[rank::world][i : i + micro] for i in range(0, whole, micro)] for rank in range(world)]


def padding(positions: np.ndarray, shares: list[Share], split: Split) -> float:
    """The share of computed positions without a token."""
    held = sum(int(positions[one].sum()) for share in shares for mine in share for one in mine)
    return 1 - held / sum(computed(share, split) for share in shares)


def print_padding(rows: int) -> None:
    """One line for each number of image tokens and size of micro-batches."""
    text = text_lengths(rows)
    schedule = Schedule(text * 4, BATCH, seed=0)  # by characters
    steps = [schedule.global_batch(step) for step in range(len(text) // BATCH)]
    print(f"{'image tokens':>12}  {'micro-batch':>11}  {'before':>7}  {'balanced':>8}  {'packed':>7}")
    for image_tokens in (576, 256, 64):
        positions = positions_of(text, image_tokens)
        for micro in (MICRO, 4):
            padded, packed = Padded(positions, micro), Packed(positions, micro * LONGEST)
            shares = {
                "before": (padded, [before(one, WORLD, micro) for one in steps]),
                "balanced": (padded, [padded(one, WORLD) for one in steps]),
                "packed": (packed, [packed(one, WORLD) for one in steps]),
            }
            found = {name: padding(positions, own, split) for name, (split, own) in shares.items()}
            print(
                f"{image_tokens:>12}  {micro:>11}  {found['before']:>7.1%}  {found['balanced']:>8.1%}"
                f"  {found['packed']:>7.1%}"
            )


def print_speed(image_tokens: int, steps: int) -> None:
    """Tokens per second of a small Llama, forward and backward, with lengths a fourth of the mix's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    positions = np.maximum(positions_of(text_lengths(4096), image_tokens) // 4, 4)
    torch.manual_seed(0)
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    llms = {name: LlamaForCausalLM(LlamaConfig(vocab_size=2048, **shape)) for name in ("padded", "packed")}
    prepare_packing(llms["packed"])
    packed, schedule = Packed(positions, MICRO * LONGEST // 4), Schedule(positions, BATCH, seed=0)
    seconds, tokens = dict.fromkeys(llms, 0.0), dict.fromkeys(llms, 0)
    for step in range(steps + 1):
        samples, rank = schedule.global_batch(step), step % WORLD  # what one of the processes computes
        mine = {"padded": before(samples, WORLD, MICRO)[rank], "packed": packed(samples, WORLD)[rank]}
        for name, rows in mine.items():  # in turn, so that what else the machine does hits both
            began = time.process_time()
            for one in rows:
                train(llms[name], positions[one], packed=name == "packed")
            if step:  # the first one warms up
                seconds[name] += time.process_time() - began
                tokens[name] += sum(int(positions[one].sum()) for one in rows)
    speeds = {name: tokens[name] / spent for name, spent in seconds.items()}
    print(
        f"{image_tokens:>4} image tokens: {speeds['padded']:.0f} tokens per CPU second padded, "
        f"{speeds['packed']:.0f} packed: {speeds['packed'] / speeds['padded']:.2f} times as many"
    )


def train(llm: Any, lengths: np.ndarray, *, packed: bool) -> None:
    """Forward and backward of one micro-batch; every second token is learnt."""
    shape = (1, int(lengths.sum())) if packed else (len(lengths), int(lengths.max()))
    embeds, labels = torch.randn(*shape, 192), torch.randint(0, 2048, shape)
    labels[:, ::2] = -100
    extra = {}
    if packed:
        extra = packed_inputs(torch.cat([torch.arange(int(length)) for length in lengths])[None])
    else:
        for row, length in enumerate(lengths):
            labels[row, int(length) :] = -100
    summed_loss(llm, labels, plain_head(llm), inputs_embeds=embeds, **extra).backward()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="samples of the mix; fewer take less time")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of the small Llama")
    given = parser.parse_args()
    print_padding(given.rows)
    for count in (576, 64):
        print_speed(count, given.steps)
