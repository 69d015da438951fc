"""Stages 1 and 2 on the GPU that is here, beside transformers' LLaVA under its Trainer: `python -m benchmarks.gpu`.

Models of LLaVA's shape with random weights: a CLIP ViT-L/14 at 336, two linear layers, and a Llama of 1, 3 or 7
billion weights. Both sides train on the same made-up samples, with the image tokens and text lengths of LLaVA's
instruction data, in bf16, on one GPU. Ours: packed rows, the loss at supervised positions, and in stage 2 what
`--recompute` says is computed again. Theirs: LlavaForConditionalGeneration and Trainer with padded batches, and
gradient checkpointing in stage 2.

MFU counts what the model costs, not what is computed again or padded; tokens are those of samples. `--tiny` runs the
same code with a tiny model on a CPU, in single precision. It says that the code works, and nothing about speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.packing import positions_of, text_lengths
from trainers.data.packing import Packed
from trainers.data.sampler import Padded
from trainers.job import Recompute
from trainers.model.flops import peak_flops
from trainers.model.loss import plain_head, summed_loss
from trainers.model.packed_attention import packed_inputs, prepare_packing
from trainers.model.recompute import enable_recompute

SIZES = {  # width, feed-forward, layers, heads
    "1b": (2048, 5504, 22, 16),
    "3b": (3200, 8640, 26, 32),
    "7b": (4096, 11008, 32, 32),
}
VOCABULARY, IMAGE_TOKENS = 32064, 576
IGNORE = -100


@dataclass(frozen=True)
class Work:
    """What is trained on.

    Attributes:
        lengths: (N,) positions of samples, their image included.
        image_tokens: of these, the image's.
        micro: samples that are taken at a time.
        device: where.
        dtype: of what is computed.
    """

    lengths: np.ndarray
    image_tokens: int
    micro: int
    device: torch.device
    dtype: torch.dtype


def llava(tiny: bool, size: str) -> Any:
    """LlavaForConditionalGeneration with random weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    width, inner, layers, heads = (64, 128, 2, 2) if tiny else SIZES[size]
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision |= {"image_size": 336, "patch_size": 14}
    if tiny:
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
        vision |= {"image_size": 32, "patch_size": 8}
    text = LlamaConfig(
        vocab_size=512 if tiny else VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
    )
    config = LlavaConfig(vision_config=CLIPVisionConfig(**vision), text_config=text, image_token_index=5)
    return LlavaForConditionalGeneration(config)


def batch_of(work: Work, rows: np.ndarray, vocabulary: int, size: int) -> dict[str, torch.Tensor]:
    """A padded batch of samples, each an image and then text of which the second half is learnt."""
    lengths = work.lengths[rows]
    ids = torch.full((len(rows), int(lengths.max())), 6)
    labels = torch.full_like(ids, IGNORE)
    for row, length in enumerate(lengths.tolist()):
        ids[row, : work.image_tokens] = 5
        middle = work.image_tokens + (length - work.image_tokens) // 2
        labels[row, middle:length] = torch.randint(6, vocabulary, (length - middle,))
    mask = (torch.arange(ids.shape[1])[None] < torch.as_tensor(lengths)[:, None]).long()
    pixels = torch.randn(len(rows), 3, size, size)
    given = {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels}
    return {name: tensor.to(work.device) for name, tensor in given.items()}


def freeze(model: Any, stage: int) -> list[Any]:
    """Train the connector, in stage 2 the language model too. Returns what is trained."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    if stage == 2:
        model.model.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def timed(work: Work, run: Callable[[], int], steps: int) -> tuple[float, float]:
    """Tokens per second of the median step, and the most gigabytes. run: does a step, returns its tokens."""
    cuda = work.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    speeds = []
    for step in range(steps + 2):
        began = time.perf_counter()
        tokens = run()
        if cuda:
            torch.cuda.synchronize()
        if step >= 2:  # the first ones warm up
            speeds.append(tokens / (time.perf_counter() - began))
    memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else float("nan")
    return statistics.median(speeds), memory


def ours(
    work: Work, model: Any, stage: int, batches: list[np.ndarray], steps: int, recompute: Recompute
) -> tuple[float, float]:
    """Packed rows through the same weights."""
    from transformers import LlamaForCausalLM

    from trainers.data.batch import Batch
    from trainers.data.packing import pack

    trained = {id(weight) for weight in freeze(model, stage)}
    for weight in model.parameters():
        weight.data = weight.data.to(torch.float32 if id(weight) in trained else work.dtype)
    model.to(work.device).train()
    with torch.device("meta"):
        llm = LlamaForCausalLM(model.model.language_model.config)
    llm.model, llm.lm_head = model.model.language_model, model.lm_head
    prepare_packing(llm)
    enable_recompute(llm, recompute if stage == 2 else "none")
    plain, turn = plain_head(llm), iter(range(10**9))
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-5, fused=work.device.type == "cuda"
    )

    def step() -> int:
        rows = batches[next(turn) % len(batches)]
        size = model.config.vision_config.image_size
        padded = batch_of(work, rows, model.config.text_config.vocab_size, size)
        ids, labels, mask = (padded[name].cpu() for name in ("input_ids", "labels", "attention_mask"))
        packed = pack(Batch((), ids, labels, mask, torch.zeros(len(rows), dtype=torch.long))).to(work.device)
        with torch.autocast(work.device.type, torch.bfloat16, enabled=work.dtype == torch.bfloat16):
            embeds = llm.get_input_embeddings()(packed.input_ids)
            with torch.no_grad():
                seen = model.model.vision_tower(padded["pixel_values"].to(work.dtype), output_hidden_states=True)
            images = model.model.multi_modal_projector(seen.hidden_states[-2][:, 1:]).to(embeds.dtype)
            embeds = embeds.masked_scatter((packed.input_ids == 5).unsqueeze(-1), images)
            inputs = {"inputs_embeds": embeds} | packed_inputs(packed.position_ids)
            loss = summed_loss(llm, packed.labels, plain, **inputs) / max(int((packed.labels != IGNORE).sum()), 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return int(work.lengths[rows].sum())

    return timed(work, step, steps)


def theirs(work: Work, model: Any, stage: int, batches: list[np.ndarray], steps: int) -> tuple[float, float]:
    """transformers' Trainer; a step is timed from its callback to the next."""
    import tempfile

    from transformers import Trainer, TrainerCallback, TrainingArguments

    freeze(model, stage)
    size, vocabulary = model.config.vision_config.image_size, model.config.text_config.vocab_size
    cpu = Work(work.lengths, work.image_tokens, work.micro, torch.device("cpu"), work.dtype)
    taken: list[int] = []

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        return batch_of(cpu, batches[rows[0] % len(batches)], vocabulary, size)

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if work.device.type == "cuda":
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            taken.append(int(work.lengths[batches[len(taken) % len(batches)]].sum()))

    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            per_device_train_batch_size=1,  # one of the batches, which collate makes
            max_steps=steps + 3,
            learning_rate=1e-5,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=work.device.type == "cpu",
            bf16=work.dtype == torch.bfloat16,
            gradient_checkpointing=stage == 2,
            optim="adamw_torch_fused" if work.device.type == "cuda" else "adamw_torch",
        )
        rows: Any = list(range(steps + 3))
        Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()]).train()
    speeds = [taken[i] / (moments[i] - moments[i - 1]) for i in range(2, len(moments))]
    memory = torch.cuda.max_memory_allocated() / 1e9 if work.device.type == "cuda" else float("nan")
    return statistics.median(speeds), memory


def model_flops(model: Any, stage: int, length: float, image_tokens: int) -> float:
    """Operations of a token of the mean sample, forward and backward, of language model and encoder."""
    config = model.config.text_config
    matrices = sum(weight.numel() for weight in model.model.language_model.layers.parameters())
    head = model.lm_head.weight.numel() * 0.5 * (1 - image_tokens / length)  # half of the text is predicted
    attention = 2 * config.num_hidden_layers * config.hidden_size * length
    vision = 2 * sum(weight.numel() for weight in model.model.vision_tower.parameters()) * image_tokens / length
    passes = 3 if stage == 2 else 2
    return passes * 2 * (matrices + head) + 3 * attention + vision


def main(tiny: bool, size: str, micro: int, steps: int, recompute: Recompute) -> None:
    """Print a line for each side and stage."""
    if not tiny and not torch.cuda.is_available():
        sys.exit("no GPU here; --tiny runs the same code with a tiny model on the CPU")
    device = torch.device("cpu" if tiny else "cuda")
    tokens = 16 if tiny else IMAGE_TOKENS
    lengths = positions_of(text_lengths(4096), tokens)
    lengths = np.maximum(np.minimum(lengths // 16, 100) if tiny else lengths, tokens + 4)
    work = Work(lengths, tokens, micro, device, torch.float32 if tiny else torch.bfloat16)
    name, peak = ("a CPU", None) if tiny else (torch.cuda.get_device_name(device), peak_flops(device))
    print(f"{name}, a Llama of {'toy size' if tiny else size}, micro-batches of {micro} samples")
    for stage in (1, 2):
        samples = np.arange(micro * 8)
        row = int(1.1 * lengths[samples].sum() / 8 + lengths.max())
        sides = {
            "transformers": (theirs, Padded(lengths, micro)(samples, 1)[0]),
            "acsearch": (
                partial(ours, recompute=recompute),
                Packed(lengths, row)(samples, 1)[0],
            ),
        }
        found = {}
        for side, (run, batches) in sides.items():
            model = llava(tiny, size)
            found[side] = speed, memory = run(work, model, stage, batches, steps)
            share = f"{speed * model_flops(model, stage, lengths.mean(), tokens) / peak:.1%}" if peak else "-"
            print(f"stage {stage}  {side:>12}  {speed:>9.0f} tokens/s  MFU {share:>6}  {memory:>6.1f} GB")
            del model
            if not tiny:
                torch.cuda.empty_cache()
        print(f"stage {stage}  {'ratio':>12}  {found['acsearch'][0] / found['transformers'][0]:>9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU")
    parser.add_argument("--size", choices=SIZES, default="1b", help="of the language model; 7b needs more than 80 GB")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="selective", help="ours, stage 2")
    given = parser.parse_args()
    main(given.tiny, given.size, given.micro_batch, given.steps, given.recompute)
