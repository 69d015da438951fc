"""Step time beside transformers.Trainer with the same model and data: `python -m benchmarks.trainer`.

Both train connector and language model in full on the same samples, which are decoded, encoded and tokenised in each
step's time, with AdamW of the same settings. Trainer's module computes the loss as transformers does, from all logits.
The two take turns, a few steps each, in one process, so that whatever else the machine does hits both. CPU seconds are
compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import tiny
from trainers.job import Job, Parts, Stage, Tune
from trainers.model.loading import build_model
from trainers.training.train import RESULT, run_stage

SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "tie_word_embeddings": False}
LR, BATCH = 1e-4, 8


def ours(folder: Path, samples: int) -> list[float]:
    """CPU seconds of each step of a stage."""
    full = Tune(mode="full", lr=LR)
    job = Job(
        parts=Parts(
            representation="clip@32|linear",
            llm=str(folder / "llm"),
            template="chat",
            encoders=(folder / "encoders.yaml",),
        ),
        stage=Stage(
            data="",
            template="chat",
            train={"connector": full, "llm": full},
            batch=BATCH,
            micro_batch=BATCH,
            longest=200,
        ),
        data=folder / "data" / "turns-2.json",
    )
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        result = run_stage(job, Path(place), lambda *_: moments.append(time.process_time()))
        assert result == Path(place) / RESULT
    return [after - before for before, after in pairwise(moments)]


class _Module(nn.Module):
    """The multimodal model as Trainer wants it: called with rows of the data, its loss comes first."""

    def __init__(self, model: Any, make: Any) -> None:
        super().__init__()
        self.model, self.make = model, make

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor]:
        batch = self.make.batch(rows.tolist())
        inputs = self.model.llm_inputs(batch)
        return (self.model.llm(**inputs, labels=batch.labels, use_cache=False).loss,)


def theirs(folder: Path, steps: int) -> list[float]:
    """CPU seconds of each step of transformers.Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from support.tiny_models import batcher
    from support.tiny_samples import samples as read

    parts = Parts(
        representation="clip@32|linear",
        llm=str(folder / "llm"),
        template="chat",
        encoders=(folder / "encoders.yaml",),
    )
    model = build_model(parts)
    model.tune({"connector": Tune(mode="full", lr=LR), "llm": Tune(mode="full", lr=LR)}, seed=0)
    make = batcher(model, read(folder / "data" / "turns-2.json", model.tokenizer))
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.process_time())

    def together(rows: list[int]) -> dict[str, torch.Tensor]:
        return {"rows": torch.tensor(rows)}

    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=LR,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
            weight_decay=0.0,
            optim="adamw_torch",
        )
        rows: Any = list(range(steps * BATCH))
        module = _Module(model, make)
        trainer = Trainer(module, arguments, train_dataset=rows, data_collator=together, callbacks=[Clock()])
        trainer.train()
    return [after - before for before, after in pairwise(moments)]


def main(steps: int, turns: int) -> None:
    """Print the median step of both, and their ratio."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tiny.llm(folder / "llm", **SHAPE)
        tiny.encoders(folder)
        tiny.manifest(folder / "data", count=steps * BATCH)
        found: dict[str, list[float]] = {"acsearch": [], "Trainer": []}
        for _ in range(turns):
            found["acsearch"] += ours(folder, steps * BATCH)
            found["Trainer"] += theirs(folder, steps)
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        print(f"{name:>9}  {1000 * median:7.1f} ms of CPU a step")
    print(f"    ratio  {medians['acsearch'] / medians['Trainer']:7.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each turn")
    parser.add_argument("--turns", type=int, default=4, help="turns of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    main(given.steps, given.turns)
