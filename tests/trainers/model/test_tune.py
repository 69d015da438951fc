"""What is trained and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_models import ALL, Mode, batcher, changed, parts, weights_of
from trainers.data.samples import Samples
from trainers.errors import ConfigError, TrainingError
from trainers.job import Stage, Tune
from trainers.model.loading import build_model

TABLES: list[dict[str, Mode]] = [
    {"connector": "full"},
    {"connector": "full", "llm": "full"},
    {"connector": "full", "llm": "lora"},
    {"connector": "frozen", "llm": "full"},
    {"llm": "lora"},
    {"vision": "full"},
    {"vision": "full", "connector": "full", "llm": "full"},
    {"vision": "lora", "connector": "full", "llm": "frozen"},
]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_exactly_what_the_table_says_is_trained(folder: Path, samples: Samples, table: dict[str, Mode]) -> None:
    """Others stay as they are, bit for bit; LoRA's change is the same whether it is folded in or not."""
    before = torch.get_rng_state()
    model = build_model(parts(folder, ALL))
    original = weights_of(model)
    rates = {"vision": 1e-3, "connector": 3e-3, "llm": 2e-3}
    groups = model.tune({part: Tune(mode=mode, lr=rates[part], rank=2) for part, mode in table.items()}, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert {group["part"]: group["lr"] for group in groups} == {
        part: rates[part] for part, mode in table.items() if mode != "frozen"
    }
    start = weights_of(model)
    batch = batcher(model, samples).batch([0, 1, 7])
    optimizer = torch.optim.Adam(groups)
    for _ in range(2):  # LoRA's A has no gradient before its B has moved
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    moved = changed(start, weights_of(model))
    assert moved <= set(model.trainable())
    for part in ("vision", "connector", "llm"):
        trained = {name for name in model.trainable() if name.startswith(part)}
        unused = {name for name in trained if name not in moved}  # what comes after the layer that is taken
        assert bool(trained) == (table.get(part, "frozen") != "frozen")
        assert len(unused) <= (4 if part == "vision" else 0), unused
    with torch.no_grad():
        unmerged, _ = model.token_log_probs(batch)
        adapted = model.merge()
        merged, _ = model.token_log_probs(batch)
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-5)
    differ = changed(original, weights_of(model))
    for part in ("vision", "connector", "llm"):
        ours = {name for name in differ if name.startswith(part)}
        whole = {name for name in original if name.startswith(part)}
        mode = table.get(part, "frozen")
        expected = {name for name in adapted if name.startswith(part)} if mode == "lora" else whole & moved
        assert ours == (set() if mode == "frozen" else expected)
        assert ours or mode == "frozen"


def test_lora_takes_every_linear_layer_but_the_output(folder: Path) -> None:
    model = build_model(parts(folder))
    model.tune({"llm": Tune(mode="lora", lr=0.1)}, seed=0)
    first = weights_of(model)
    adapted = model.merge()
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    layers += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert adapted == {f"llm.model.layers.{depth}.{layer}.weight" for depth in range(2) for layer in layers}
    again = build_model(parts(folder, ALL))
    torch.rand(3)
    again.tune({"llm": Tune(mode="lora", lr=0.1)}, seed=0)
    begun = {name: weight for name, weight in weights_of(again).items() if "lora" in name}
    assert len(begun) == 28
    assert not changed(begun, {name: first[name] for name in begun})  # the same for every candidate
    other = build_model(parts(folder))
    other.tune({"llm": Tune(mode="lora", lr=0.1)}, seed=1)
    assert changed(begun, {name: weight for name, weight in weights_of(other).items() if "lora" in name})


def test_what_cannot_be_trained_is_refused(folder: Path) -> None:
    model = build_model(parts(folder))
    with pytest.raises(ConfigError, match="no part 'vison'; the parts are vision, connector, fusion, llm"):
        model.tune({"vison": Tune()}, seed=0)
    with pytest.raises(ConfigError, match="every part is frozen"):
        model.tune({"connector": Tune()}, seed=0)
    model.tune({"connector": Tune(mode="full", lr=0.1)}, seed=0)
    with pytest.raises(TrainingError, match=r"weights of another model: connector.x \(2,\); .* no such weight"):
        model.load_trainable({"connector.x": torch.zeros(2)})
    with pytest.raises(TrainingError, match=r"this one has a shape of"):
        model.load_trainable({next(iter(model.trainable())): torch.zeros(2)})

    def fails(message: str, **changes: Any) -> None:
        common = {"data": "x", "template": "chat", "batch": 1, "micro_batch": 1}
        with pytest.raises(ValueError, match=message):
            Stage.model_validate(common | changes)

    full = {"mode": "full", "lr": 0.1}
    fails("every part is frozen", train={})
    fails("connector has lr 0", train={"connector": {"mode": "full"}})
    fails("only features of frozen encoders can be cached", train={"vision": full}, cache_features=True)
    fails("no part 'vison'; the parts are vision, connector, fusion, llm", train={"vison": full})
