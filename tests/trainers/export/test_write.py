"""What is written of a finetune for transformers: whole or not at all, and over nothing of others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from support import tiny
from support.training_jobs import LORA, TinyJobs
from trainers.errors import ConfigError, TrainingError
from trainers.export.write import CARD, MARK, About, export
from trainers.model.loading import load_model
from trainers.training.train import run_stage

ABOUT = About("trial 3 of the study s|<b>", {"mmbench_en": "64.30 ± 0.70"})


@pytest.fixture(scope="module")
def result(jobs: TinyJobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA's matrices, whose weights transformers gets merged."""
    job = jobs.make(LORA, epochs=1.0, parts={"representation": "clip@32"})
    return run_stage(job, tmp_path_factory.mktemp("stage"))


def test_a_finetune_with_lora_answers_the_same(result: Path, tmp_path: Path) -> None:
    remarks = export(result, tmp_path / "out", ABOUT)
    assert len(remarks) == 2
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    image, question = tiny.picture("red", 3, (40, 40)), "what colour is the shape ?"
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        new = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [processor.decode(new, skip_special_tokens=True).strip()] == load_model(result).generate(
        [image], [question], 8
    )


def test_the_card_says_what_it_is_and_where_nobody_keeps_files(result: Path, jobs: TinyJobs, tmp_path: Path) -> None:
    remarks = export(result, tmp_path / "out", ABOUT)
    card = (tmp_path / "out" / CARD).read_text()
    assert MARK in card
    assert "# clip@32\n" in card
    assert "trial 3 of the study s\\|\\<b\\>" in card
    assert "| mmbench_en | 64.30 ± 0.70 |" in card
    assert "| vision encoder | clip, clip | none |" in card
    assert all(f"- {remark}" in card for remark in remarks)
    assert str(jobs.folder) not in card
    for path in (tmp_path / "out").iterdir():
        if path.suffix == ".json":
            assert str(jobs.folder) not in path.read_text(), path.name


def test_weights_of_half_the_size(result: Path, tmp_path: Path) -> None:
    export(result, tmp_path / "whole", ABOUT)
    export(result, tmp_path / "half", ABOUT, dtype="bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert 0.4 < sizes[1] / sizes[0] < 0.65
    assert LlavaForConditionalGeneration.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_only_an_export_makes_room_for_another(result: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(result, out, ABOUT)
    (out / "left-over.txt").write_text("of the export before")
    export(result, out, ABOUT)
    assert not (out / "left-over.txt").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("a year")
    (mine / CARD).write_text("mine")
    with pytest.raises(ConfigError, match="has files that acsearch did not write; choose another name, or --force"):
        export(result, mine, ABOUT)
    assert (mine / CARD).read_text() == "mine"
    export(result, mine, ABOUT, force=True)
    assert (mine / "notes.txt").read_text() == "a year"
    assert MARK in (mine / CARD).read_text()
    (tmp_path / "empty").mkdir()
    export(result, tmp_path / "empty", ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine", "out"]


@pytest.mark.parametrize("what", ["a file", "a link", "a pipe", "no folder above"])
def test_where_no_folder_can_be(result: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    elif what == "a pipe":
        os.mkfifo(out)
    else:
        out = tmp_path / "nowhere" / "out"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"exists and is not a folder|the folder above is not there"):
        export(result, out, ABOUT, force=True)
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_exported_leaves_nothing(result: Path, jobs: TinyJobs, tmp_path: Path) -> None:
    several = run_stage(jobs.make(LORA, epochs=0.2), tmp_path / "stage")
    with pytest.raises(TrainingError, match="several encoders"):
        export(several, tmp_path / "out", ABOUT)
    shutil.copytree(result, tmp_path / "broken")
    (tmp_path / "broken" / "model.json").write_text("{}")
    with pytest.raises(TrainingError):
        export(tmp_path / "broken", tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
