"""A_ll and A_cos, against loops over tokens and cross-entropy computed elsewhere."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acsearch.scores import SCORES
from acsearch.scores.alignment import (
    alignment_cos,
    alignment_ll,
    caption_log_likelihood,
    cosine_alignment,
)
from acsearch.scores.stage1 import caption_batches, choose, images
from support import tiny
from support.tiny_samples import samples, say
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX
from trainers.errors import DataError, TrainingError
from trainers.job import Job, Parts, Stage
from trainers.model.loading import build_model, load_model
from trainers.model.multimodal import MultimodalModel, Tune
from trainers.training.train import run_stage


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- pure --------------------------------------------------------------------------------------------------------------


def some_captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Three samples of 8 positions over 11 words, with captions of 2, 5 and 1 tokens."""
    logits = 3 * random(0, 3, 8, 11)
    labels = torch.full((3, 8), IGNORE_INDEX)
    labels[0, 4:6] = torch.tensor([3, 10])
    labels[1, 3:8] = torch.tensor([1, 2, 0, 4, 4])
    labels[2, 7] = 9
    return logits, labels


def test_log_likelihood_is_a_loop_over_the_caption_tokens() -> None:
    logits, labels = some_captions()
    expected = []
    for sample in range(3):
        terms = []
        for t in range(1, 8):
            if labels[sample, t] != IGNORE_INDEX:
                row = logits[sample, t - 1].double().numpy()
                terms.append(row[labels[sample, t]] - np.log(np.exp(row).sum()))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(caption_log_likelihood(logits, labels).numpy(), expected, atol=1e-6)


def test_log_likelihood_is_minus_the_masked_cross_entropy() -> None:
    logits, labels = some_captions()
    counts = (labels[:, 1:] != IGNORE_INDEX).sum(dim=1)
    values = caption_log_likelihood(logits, labels)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    assert float((values * counts).sum() / counts.sum()) == pytest.approx(-float(loss), abs=1e-6)
    assert float(values.mean()) != pytest.approx(-float(loss), abs=1e-3)  # the mean over samples is another number


def test_image_and_prompt_count_nothing() -> None:
    logits, labels = some_captions()
    elsewhere = logits.clone()
    silent = torch.cat([labels[:, 1:], torch.full((3, 1), IGNORE_INDEX)], dim=1) == IGNORE_INDEX
    elsewhere[silent] = 100 * random(1, int(silent.sum()), 11)
    torch.testing.assert_close(caption_log_likelihood(elsewhere, labels), caption_log_likelihood(logits, labels))


def test_log_likelihood_of_half_precision_is_computed_in_float32() -> None:
    logits, labels = some_captions()
    halved = logits.bfloat16()
    assert torch.equal(caption_log_likelihood(halved, labels), caption_log_likelihood(halved.float(), labels))


def test_a_sample_without_caption_is_an_error() -> None:
    logits, labels = some_captions()
    labels[1] = IGNORE_INDEX
    with pytest.raises(DataError, match="sample 1 of a batch has no caption"):
        caption_log_likelihood(logits, labels)


def test_cosine_is_a_loop_over_all_pairs_of_tokens() -> None:
    tokens, reference = random(1, 7, 5).numpy(), random(2, 9, 5).numpy()
    best = [max(float(t @ r) / (np.linalg.norm(t) * np.linalg.norm(r)) for r in reference) for t in tokens]
    expected = sum(best) / len(best)
    assert cosine_alignment(torch.from_numpy(tokens), torch.from_numpy(reference)) == pytest.approx(expected, abs=1e-6)


def test_properties_of_the_cosine() -> None:
    tokens, reference = random(1, 16, 8), random(2, 25, 8)
    value = cosine_alignment(tokens, reference)
    shuffled = reference[torch.randperm(25, generator=torch.Generator().manual_seed(0))]
    assert cosine_alignment(tokens, shuffled) == pytest.approx(value, abs=1e-7)
    assert cosine_alignment(7 * tokens, 0.1 * reference) == pytest.approx(value, abs=1e-6)
    assert cosine_alignment(tokens, tokens) == pytest.approx(1, abs=1e-6)
    assert cosine_alignment(tokens.bfloat16(), tokens.bfloat16()) == pytest.approx(1, abs=1e-6)  # not 1.002
    assert cosine_alignment(reference, tokens) != pytest.approx(value, abs=1e-3)  # one direction only
    assert cosine_alignment(tokens, torch.cat([reference, tokens[:1]])) > value  # a nearer token can only help
    with pytest.raises(TrainingError, match="width 8 against a reference of width 6"):
        cosine_alignment(tokens, reference[:, :6])


def test_every_score_says_what_it_is() -> None:
    assert all(name == score.definition for name, score in SCORES.items())
    assert {name: (score.law, score.needs) for name, score in SCORES.items()} == {
        "C": ("C", "features"),
        "C_compat": ("C", "features"),
        "A_ll": ("A", "stage1"),
        "A_ll_train": ("A", "stage1"),
        "A_cos": ("A", "stage1"),
    }
    assert len({score.id for score in SCORES.values()}) == len(SCORES)


# -- with a model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alignment")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    tiny.manifest(folder / "data", turns=1)
    return folder


def parts(folder: Path, representation: str) -> Parts:
    return Parts(
        representation=representation,
        llm=str(folder / "llm"),
        template="chat",
        encoders=(folder / "encoders.yaml",),
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> MultimodalModel:
    return build_model(parts(folder, "clip@32")).eval()


@pytest.fixture(scope="module")
def reference(folder: Path) -> MultimodalModel:
    return build_model(parts(folder, "siglip@32")).eval()


@pytest.fixture(scope="module")
def captions(folder: Path) -> Samples:
    return samples(folder / "data" / "turns-1.json", tiny.tokenizer(), "plain")


def likelihood(model: MultimodalModel, captions: Samples, chosen: list[int], batch_size: int) -> Any:
    return alignment_ll(model, caption_batches(model, captions, chosen, longest=64, batch_size=batch_size))


def test_likelihood_of_a_model_whatever_the_batch_size(model: MultimodalModel, captions: Samples) -> None:
    chosen = choose(captions, 10, seed=0)
    result = likelihood(model, captions, chosen, 4)
    alone = [likelihood(model, captions, [sample], 1).value for sample in chosen]
    assert result.value == pytest.approx(np.mean(alone), abs=1e-5)
    assert result.standard_error == pytest.approx(np.std(alone, ddof=1) / math.sqrt(10), abs=1e-5)
    assert (result.samples, result.tokens) == (10, 10)  # captions of one word
    assert result.value < 0
    batch = next(caption_batches(model, captions, chosen, longest=64, batch_size=10))
    with torch.inference_mode():
        assert result.token_weighted == pytest.approx(-float(model(batch)) / result.tokens, abs=1e-5)


def test_likelihood_needs_captions(model: MultimodalModel) -> None:
    with pytest.raises(DataError, match="no captions"):
        alignment_ll(model, [])


def test_cosine_of_models(model: MultimodalModel, reference: MultimodalModel, captions: Samples) -> None:
    shown = images(captions, choose(captions, 5, seed=0))
    result = alignment_cos(model, [reference, model], shown, batch_size=2)
    pairs = [(model.image_tokens([image]).values, reference.image_tokens([image]).values) for image in shown]
    expected = [cosine_alignment(*pair) for pair in pairs]
    assert result.by_reference == pytest.approx((np.mean(expected), 1.0), abs=1e-5)
    assert result.value == pytest.approx((np.mean(expected) + 1) / 2, abs=1e-5)
    assert result.images == 5
    with pytest.raises(DataError, match="got 0 and 1"):
        alignment_cos(model, [reference], [])


def test_samples_are_chosen_by_seed_among_those_with_an_image(folder: Path) -> None:
    mixed = samples(tiny.manifest(folder / "mixed", turns=2), tiny.tokenizer())
    chosen = choose(mixed, 10, seed=3)
    assert chosen == choose(mixed, 10, seed=3) != choose(mixed, 10, seed=4)
    assert len(set(chosen)) == 10
    every = choose(mixed, 1000, seed=3)
    assert every[:10] == chosen
    assert sorted(every) == [sample for sample in range(len(mixed)) if sample % 8 != 7]
    assert all(isinstance(image, Image.Image) for image in images(mixed, every))
    text = folder / "text.json"
    text.write_text(json.dumps([say("what", "a", image=None)]))
    with pytest.raises(DataError, match="no sample with an image"):
        choose(samples(text, tiny.tokenizer()), 10, seed=0)


def test_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from acsearch.cli.main import main

    manifest = folder / "data" / "turns-1.json"
    results = {}
    for name in ("clip", "siglip"):
        job = Job(
            parts=parts(folder, f"{name}@32"),
            stage=Stage(
                data="turns-1.json",
                template="plain",
                train={"connector": Tune(mode="full", lr=1e-3)},
                batch=8,
                micro_batch=8,
                longest=64,
                precision="fp32",
            ),
            data=manifest,
        )
        results[name] = run_stage(job, folder / "stages" / name)

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["acsearch", "score", *options])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    common = ["--checkpoint", str(results["clip"]), "--data", str(manifest), "--samples", "6", "--device", "cpu"]
    for definition in ("A_ll", "A_ll_train"):
        code, out, _ = run(definition, *common, "--seed", "1", "--json")
        read = json.loads(out)
        assert code == 0
        assert (read["definition"], read["version"], read["unit"]) == (definition, 1, "nats per token")
        assert (read["samples"], read["tokens"]) == (6, 6)
        trained, captions = load_model(results["clip"]), samples(manifest, tiny.tokenizer(), "plain")
        assert read["value"] == pytest.approx(likelihood(trained, captions, choose(captions, 6, 1), 16).value, abs=1e-5)
    references = ["--reference", str(results["siglip"]), "--reference", str(results["clip"])]
    code, out, _ = run("A_cos", *common, *references, "--json")
    read = json.loads(out)
    assert code == 0
    assert read["by_reference"][1] == pytest.approx(1, abs=1e-5)
    assert read["value"] == pytest.approx(np.mean(read["by_reference"]))
    code, out, _ = run("A_cos", *common, *references)
    assert code == 0
    assert f"{read['value']:.4f}" in out
    code, _, err = run("A_ll", "--checkpoint", str(folder), "--data", str(manifest))
    assert code == 1
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
