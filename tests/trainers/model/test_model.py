"""The model: what is trained and what is not, losses that do not depend on company, and greedy answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from support import tiny
from trainers.data.batch import Batch
from trainers.data.collate import Batcher
from trainers.data.manifest import Manifest, read_manifest
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.errors import ConfigError, TrainingError
from trainers.job import Parts, Stage, Tune
from trainers.model.flops import ModelShape, training_flops
from trainers.model.loading import build_model, load_llm
from trainers.model.multimodal import MultimodalModel

Mode = Literal["frozen", "lora", "full"]
ALL = "clip@32+siglip@32|pool@2"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    for kind in ("llama", "qwen2"):
        tiny.llm(made / kind, kind)
    tiny.encoders(made)
    return made


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(tiny.manifest(folder / "data", turns=2))


def parts(folder: Path, representation: str = "clip@32", llm: str = "llama", template: str = "chat") -> Parts:
    registry = (folder / "encoders.yaml",)
    return Parts(representation=representation, llm=str(folder / llm), template=template, encoders=registry)


def batcher(model: MultimodalModel, manifest: Manifest) -> Batcher:
    tokens = model.connector.tokens
    return Batcher(manifest, model.vision, model.tokenizer, "chat", tokens, longest=200, pad_id=model.pad_id)


def weights_of(model: MultimodalModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


# -- what is trained ---------------------------------------------------------------------------------------------------

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
def test_exactly_what_the_table_says_is_trained(folder: Path, manifest: Manifest, table: dict[str, Mode]) -> None:
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
    batch = batcher(model, manifest).batch([0, 1, 7])
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
    with pytest.raises(ConfigError, match="no part 'vison'; the parts are vision, connector, llm"):
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
    fails("no part 'vison'; the parts are vision, connector, llm", train={"vison": full})


def test_building_is_repeatable_and_leaves_the_global_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    first = weights_of(build_model(parts(folder, ALL)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert not changed(first, weights_of(build_model(parts(folder, ALL))))
    for name in ("connector.", "vision.", "llm."):
        assert any(weight.startswith(name) for weight in first)


def test_a_language_model_that_cannot_be_had(tmp_path: Path, folder: Path) -> None:
    message = rf"language model {tmp_path}: cannot be loaded: .*; give a hub id"

    def fails() -> None:
        with pytest.raises(TrainingError, match=message) as error:
            load_llm(str(tmp_path))
        assert len(str(error.value).splitlines()) == 1

    fails()
    shutil.copy(folder / "llama" / "config.json", tmp_path)
    fails()
    shutil.copy(folder / "llama" / "model.safetensors", tmp_path)
    fails()


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_a_loss_does_not_depend_on_the_company(folder: Path, manifest: Manifest, llm: str) -> None:
    """Of a batch it is the sum of its samples', with their gradients: padding and text-only samples change nothing."""
    model = build_model(parts(folder, ALL, llm))
    model.tune({part: Tune(mode="full", lr=0.1) for part in ("connector", "llm")}, seed=0)
    make = batcher(model, manifest)

    def total(*groups: list[int]) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        losses = [model(make.batch(group)) for group in groups]
        for loss in losses:
            loss.backward()
        gradients = [weight.grad for weight in model.trainable().values()]
        return sum(loss.item() for loss in losses), [one.clone() for one in gradients if one is not None]

    loss, gradients = total([0, 1, 7, 15, 2, 8])
    for groups in ([[0], [1], [7], [15], [2], [8]], [[7, 15], [0, 1, 2, 8]], [[8, 7], [2, 15, 1, 0], []]):
        again, others = total(*groups)
        assert again == pytest.approx(loss, rel=1e-6)
        assert len(others) == len(gradients) == len(model.trainable())
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, gradient, atol=1e-6 * float(gradient.abs().max() + 1), rtol=1e-5)


def test_log_probabilities_are_the_loss(folder: Path, manifest: Manifest) -> None:
    model = build_model(parts(folder))
    batch = batcher(model, manifest).batch([0, 1, 7])
    with torch.no_grad():
        values, mask = model.token_log_probs(batch)
        assert -float((values * mask).sum()) == pytest.approx(float(model(batch)), rel=1e-6)
        assert mask.sum() == (batch.labels != IGNORE_INDEX).sum() == 21
        whole = model.llm(inputs_embeds=model._embed(batch), attention_mask=batch.attention_mask).logits.log_softmax(-1)
    for row in range(3):  # by hand: the token at t + 1 from the logits at t
        for place in range(batch.input_ids.shape[1] - 1):
            target = int(batch.labels[row, place + 1])
            if target != IGNORE_INDEX:
                found = values[row][mask[row]][int((batch.labels[row, 1 : place + 1] != IGNORE_INDEX).sum())]
                assert float(found) == pytest.approx(float(whole[row, place, target]), abs=1e-5)


def test_text_alone_gives_every_trained_weight_a_gradient(folder: Path, manifest: Manifest) -> None:
    """Or the other processes would wait for it for ever."""
    model = build_model(parts(folder))
    model.tune({"vision": Tune(mode="full", lr=0.1), "connector": Tune(mode="full", lr=0.1)}, seed=0)
    loss = model(batcher(model, manifest).batch([7, 15]))
    loss.backward()
    assert loss.item() > 0
    for weight in model.trainable().values():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_an_image_is_seen_where_its_mark_stands(folder: Path, manifest: Manifest) -> None:
    model = build_model(parts(folder))
    batch = batcher(model, manifest).batch([1, 7, 2])
    with torch.no_grad():
        embedded, words = model._embed(batch), model.llm.get_input_embeddings()(batch.input_ids.clamp(min=0))
    marks = batch.input_ids == IMAGE_ID
    assert torch.equal(embedded[~marks], words[~marks])
    for row, sample in ((0, 1), (2, 2)):
        image = manifest.image(sample)
        assert image is not None
        torch.testing.assert_close(embedded[row][marks[row]], model.image_tokens([image])[0], atol=1e-5, rtol=1e-5)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions() -> tuple[list[Any], list[str]]:
    """Of different lengths, every third without an image."""
    texts = ["what is it ?", "what colour is the shape ?", "a big", "is it red . what is the circle ?"]
    colours = list(tiny.COLOURS)
    images = [None if i % 3 == 2 else tiny.picture(colours[i % 3], i, (40, 30 + i)) for i in range(17)]
    return images, [texts[i % 4] for i in range(17)]


def scramble(model: MultimodalModel) -> MultimodalModel:
    """With larger weights, so that a random model says different things of different images."""
    generator = torch.Generator().manual_seed(0)
    for part in (model.connector, model.llm):
        for weight in part.parameters():
            if weight.ndim > 1:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_answers_do_not_depend_on_the_company(folder: Path, llm: str, questions: Any) -> None:
    model = scramble(build_model(parts(folder, ALL, llm)))
    images, prompts = questions
    before = torch.get_rng_state()
    expected = model.generate(images, prompts, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(expected)) > 8
    for size in (1, 3, 16):
        assert model.generate(images, prompts, 6, batch_size=size) == expected
    for row in range(0, 17, 5):
        assert model.generate(images[row : row + 1], prompts[row : row + 1], 6) == expected[row : row + 1]
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1)).tolist()
    mixed = model.generate([images[i] for i in order], [prompts[i] for i in order], 6)
    assert mixed == [expected[i] for i in order]


@pytest.mark.parametrize("llm", ["llama", "qwen2"])
def test_answers_are_greedy(folder: Path, llm: str, questions: Any) -> None:
    """The likeliest token after all that was said, found without a cache of keys and values; then </s>."""
    model = scramble(build_model(parts(folder, "clip@32", llm)))
    images, prompts = questions
    ended = 0
    for image, prompt, answer in zip(images, prompts, model.generate(images, prompts, 12), strict=True):
        ids = model._prompt(prompt, image is not None)
        said: list[int] = []
        while len(said) < 12 and said[-1:] != [2]:
            batch = model._batch([ids + said], [image])
            with torch.no_grad():
                logits = model.llm(inputs_embeds=model._embed(batch), attention_mask=batch.attention_mask).logits
            said.append(int(logits[0, -1].argmax()))
        ended += said[-1] == 2
        assert model.tokenizer.decode(said, skip_special_tokens=True).strip() == answer
    assert ended < 17
    assert ended or llm == "qwen2"


def test_how_a_language_model_was_sampled_by_its_makers_does_not_matter(folder: Path, questions: Any) -> None:
    copy = folder / "sampled"
    shutil.copytree(folder / "qwen2", copy)
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 5.0}
    (copy / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 17], "max_length": 9}))
    plain, sampled = (scramble(build_model(parts(folder, "clip@32", llm))) for llm in ("qwen2", "sampled"))
    images, prompts = questions
    expected = [answer.split(" .")[0].removesuffix(".") for answer in plain.generate(images, prompts, 12)]
    found = [answer.removesuffix(" .").removesuffix(".") for answer in sampled.generate(images, prompts, 12)]
    assert found == expected  # up to its second end, the full stop
    assert any("." in answer for answer in plain.generate(images, prompts, 12))


def test_the_templates_own_end_ends_a_reply(folder: Path) -> None:
    """A base model's tokenizer may have one end of text, and its chat template another."""
    model = build_model(parts(folder))
    assert model._ends == [2]
    ended = build_model(parts(folder))
    ended.tokenizer.add_special_tokens({"additional_special_tokens": ["small"]})
    ended.tokenizer.chat_template = tiny.CHAT.replace("</s>", " small ")
    assert ended._ends == [2, ended.tokenizer.convert_tokens_to_ids("small")]
    plain = build_model(parts(folder, template="plain"))
    assert plain._ends == [2]


def test_a_prompt_has_as_many_images_as_it_shows(folder: Path) -> None:
    model = build_model(parts(folder))
    image = tiny.picture("red", 0)
    assert model.generate([image], ["<image>\nwhat is it ?"], 4) == model.generate([image], ["what is it ?"], 4)
    with pytest.raises(TrainingError, match="a prompt with 1 <image> for 0 image"):
        model.generate([None], ["<image> what"], 4)
    with pytest.raises(TrainingError, match="a prompt with 2 <image> for 1 image"):
        model.generate([image], ["<image> <image> what"], 4)


def test_the_fingerprint_names_weights_and_how_they_are_used(folder: Path) -> None:
    model = build_model(parts(folder))
    first = model.fingerprint
    assert build_model(parts(folder)).fingerprint == first
    prints = {first}
    for other in (
        parts(folder, "siglip@32"),
        parts(folder, "clip@32|pool@2"),
        parts(folder, llm="qwen2"),
        parts(folder, template="plain"),
        parts(folder).model_copy(update={"resize": "squash"}),
        parts(folder).model_copy(update={"seed": 1}),
    ):
        prints.add(build_model(other).fingerprint)
    for part in (model.vision, model.connector, model.llm):
        with torch.no_grad():
            list(part.parameters())[-1].view(-1)[-1] += 1e-3
        prints.add(model.fingerprint)
    assert len(prints) == 10


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", ["clip@32", ALL, "clip@64|shuffle@2"])
@pytest.mark.parametrize("llm", ["frozen", "lora", "full"])
def test_operations_are_those_counted(folder: Path, representation: str, llm: Mode) -> None:
    """Half of attention is masked, which the counter does not know."""
    model = build_model(parts(folder, representation))
    train = {"connector": Tune(mode="full", lr=0.1), "llm": Tune(mode=llm, lr=0.1, rank=1)}
    model.tune(train, seed=0)
    words, image = 40, model.connector.tokens
    ids = torch.tensor([[IMAGE_ID] * image + [5] * words])
    labels = ids.where(ids != IMAGE_ID, IGNORE_INDEX)
    views = tuple(torch.zeros(1, 3, part.size, part.size, dtype=torch.uint8) for part in model.vision.parts)
    batch = Batch(("one",), ids, labels, torch.ones_like(ids), torch.zeros(1, dtype=torch.long), views)

    def counted() -> tuple[float, float]:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(batch).backward()
        by_kind = counter.get_flop_counts()["Global"]
        return float(counter.get_total_flops()), float(by_kind[torch.ops.aten.bmm])

    total, attention = counted()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.vision.encode(views, batch.seeds)
    attention -= float(counter.get_flop_counts()["Global"][torch.ops.aten.bmm])
    stage = Stage(data="x", template="chat", train=train, batch=1, micro_batch=1)
    found = training_flops(ModelShape.of(model), stage, words)
    assert found == pytest.approx(total - attention / 2, rel=0.1 if llm == "lora" else 0.03)
    cached = stage.model_copy(update={"cache_features": True})
    assert found - training_flops(ModelShape.of(model), cached, words) == pytest.approx(counter.get_total_flops())
