"""The micro study's models: made by its script, the same bytes twice, and as declared where they ship."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studies.micro import world
from studies.micro.pretrain import registry
from studies.micro.pretrain.__main__ import run
from studies.micro.pretrain.llm.cells import GRID, cells
from studies.micro.pretrain.llm.language_model import Texts, answering
from studies.micro.pretrain.llm.tokenizer import make_tokenizer
from studies.micro.pretrain.make import make, names
from studies.micro.pretrain.optimise import Schedule, rows
from studies.micro.pretrain.recipes import ENCODERS, LANGUAGE
from studies.micro.world import names as names_of
from studies.micro.world.scenes.creatures import SPECIES
from support import ROOT
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID, Turn, encode
from trainers.encoders.registry import load_registry, make_encoder
from trainers.representation import Part

STUDY = ROOT / "studies" / "micro"
SCALE = 0.001  # the fewest steps, images and probes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model after three steps, and the images they saw."""
    folder = tmp_path_factory.mktemp("pretrain")
    run(names(), folder / "out", folder / "cache", 1, SCALE)
    return folder


def test_every_model_is_stored_as_safetensors_with_a_card(made: Path) -> None:
    for name in names():
        files = {path.name for path in (made / "out" / name).iterdir()}
        assert {"README.md", "config.json", "model.safetensors"} <= files
        assert not {file for file in files if file.endswith((".bin", ".pt", ".pkl"))}
        assert f"# {name}" in (made / "out" / name / "README.md").read_text()


@pytest.mark.parametrize("name", ["dino-s8@64", LANGUAGE.folder])
def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(1234)  # the global generator has no say
    before = torch.random.get_rng_state()
    make(name, tmp_path, made / "cache", SCALE)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [folder / name / "model.safetensors" for folder in (made / "out", tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_epoch_shows_every_sample_once() -> None:
    seen = torch.cat([rows(10, 5, step, seed=3) for step in range(4)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_the_schedule_rises_then_falls() -> None:
    schedule = Schedule(steps=100, lr=1.0, warmup=0.1, weight_decay=0.0)
    rates = [schedule.rate(step) for step in range(100)]
    assert max(rates) == rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_llm_reads_cells_where_image_tokens_will_stand() -> None:
    """Its sequences are those of the templates that the study trains with, an image for the cells."""
    tokenizer = make_tokenizer(LANGUAGE.positions)
    texts = Texts(tokenizer, seed=0)
    for index in range(20):
        scene = world.scene(0, "train", index)
        asked = world.questions(scene)
        words = texts.words(scene)
        turns = [Turn(role, text) for q in asked for role, text in (("user", q.question), ("assistant", q.answer))]
        turns[0] = Turn("user", f"<image>\n{turns[0].text}")
        captioned = [Turn("user", "<image>"), Turn("assistant", world.captions(scene))]
        for made, template, said in (
            (texts.conversation(scene, asked, words), "chat", turns),
            (texts.caption(scene, words), "plain", captioned),
        ):
            coded = encode(template, said, tokenizer, images=1)
            image = made.input_ids.index(IMAGE_ID)
            rest = slice(image + GRID**2, None)
            assert made.input_ids[:image] + made.input_ids[rest] == [
                i for i in coded.input_ids.tolist() if i != IMAGE_ID
            ]
            assert made.labels[rest] == coded.labels.tolist()[image + 1 :]


def test_cells_say_what_is_where() -> None:
    for index in range(100):
        scene = world.scene(0, "train", index)
        bags = cells(scene)
        named = [(shape, shape.kind) for shape in scene.shapes]
        for item, word in (*named, *([(scene.sign, scene.sign.text)] if scene.sign else [])):
            column, row = (
                int((at + (96 - side) / 2) / 24) for at, side in ((item.x, scene.width), (item.y, scene.height))
            )
            assert word in bags[4 * row + column]
        told = {word for bag in bags for word in bag}
        assert not told & ({*names_of.SHAPES} - {shape.kind for shape in scene.shapes})
        assert (scene.creature is None) == (not told & {*SPECIES})


def test_the_chat_template_supervises_replies_alone() -> None:
    tokenizer = make_tokenizer(LANGUAGE.positions)
    turns = [Turn("user", "what colour is the bird ?"), Turn("assistant", "red"), Turn("user", "is there a star ?")]
    coded = encode("chat", [*turns, Turn("assistant", "no")], tokenizer)
    learnt = [id for id in coded.labels.tolist() if id != IGNORE_INDEX]
    assert tokenizer.decode(learnt) == "red </s> no </s>"
    prompt = encode("chat", turns, tokenizer)
    assert coded.input_ids[: len(prompt.input_ids)].tolist() == prompt.input_ids.tolist()
    assert tokenizer.unk_token_id not in coded.input_ids


def test_shipped_encoders_are_what_the_registry_declares() -> None:
    found = load_registry(STUDY / "encoders.yaml")
    pixels = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
    for recipe in ENCODERS:
        encoder = make_encoder(Part(recipe.name, recipe.size), found)
        assert encoder.spec.native_size == recipe.size
        features = encoder.encode(pixels[..., : recipe.size, : recipe.size], torch.tensor([1, 2]))
        assert features.shape == (2, recipe.size // 8, recipe.size // 8, 96)
        assert features.dtype == torch.float32
        assert features.isfinite().all()


def test_the_shipped_registry_is_the_one_that_the_recipes_give(tmp_path: Path) -> None:
    registry.write_rows(tmp_path / "encoders.yaml", "./weights")
    assert (STUDY / "encoders.yaml").read_text() == (tmp_path / "encoders.yaml").read_text()


def test_shipped_weights_are_small_and_all_there() -> None:
    files = [path for path in (STUDY / "weights").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == set(names())


def test_the_shipped_llm_answers_from_cells() -> None:
    answers = answering(STUDY / "weights" / LANGUAGE.folder, scenes=40, split="test")
    assert answers["all"] > 0.8
