"""The one training loop: Muon for a network's inner matrices, AdamW for the rest, warm-up and cosine, all seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from studies.micro.pretrain.muon import Muon
from trainers.utils.progress import Reporter, silent

_CLIP = 1.0


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps of a training.

    Attributes:
        steps: of the training.
        lr: the highest learning rate of Muon.
        warmup: share of the steps in which the rate rises.
        weight_decay: Muon's.
        adam: AdamW's learning rate, as a share of Muon's.
    """

    steps: int
    lr: float
    warmup: float
    weight_decay: float
    adam: float = 0.25

    def rate(self, step: int) -> float:
        """The learning rate at a step: linear to `lr`, then half a cosine to 1 % of it."""
        rise = max(1, round(self.steps * self.warmup))
        if step < rise:
            return self.lr * (step + 1) / rise
        done = (step - rise) / max(1, self.steps - rise)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def optimise(
    module: nn.Module,
    loss: Callable[[int], torch.Tensor],
    schedule: Schedule,
    *,
    after: Callable[[int], None] = lambda step: None,
    report: Reporter = silent,
) -> float:
    """Minimise a loss over the parameters of a module that need a gradient.

    Args:
        module: with the parameters.
        loss: the loss at a step.
        schedule: of the learning rate.
        after: is called after each step.
        report: is called with how training goes.

    Returns:
        The mean loss over the last tenth of the steps.
    """
    optimizers = _optimizers(module, schedule)
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    losses: list[float] = []
    module.train()
    for step in range(schedule.steps):
        value = loss(step)
        module.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(wanted, _CLIP)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step) * group["share"]
            optimizer.step()
        after(step)
        losses.append(value.item())
        if step % 50 == 0 or step == schedule.steps - 1:
            report(f"step {step + 1}/{schedule.steps} loss {sum(losses[-50:]) / len(losses[-50:]):.3f}")
    module.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _optimizers(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the weights of linear layers between hidden states; AdamW, undecayed, for all else."""
    inner = {
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and min(layer.weight.shape) >= 64
    }
    outer = {layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)}
    inner -= outer  # a tied head
    rest = [p for p in module.parameters() if p.requires_grad and p not in inner]
    matrices = [p for p in module.parameters() if p in inner]
    adam = torch.optim.AdamW([{"params": rest, "share": schedule.adam}], betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0)
    muon = Muon([{"params": matrices, "share": 1.0}], schedule.lr, schedule.weight_decay)
    return [muon, adam] if matrices else [adam]


def rows(count: int, batch: int, step: int, seed: int) -> torch.Tensor:
    """The samples of a step, in epochs without repetition; a pure function of the arguments.

    Args:
        count: of all samples.
        batch: samples of a step.
        step: counted from 0.
        seed: of the training.

    Returns:
        (batch,) indices.
    """
    batch = min(batch, count)
    per_epoch = count // batch
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch : (place + 1) * batch]


def seeded(seed: int, step: int) -> torch.Generator:
    """The generator of a step's augmentations, masks and noise."""
    return torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + step)
