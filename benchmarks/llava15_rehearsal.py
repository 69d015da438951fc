"""Rehearse studies/llava15 at its true size: its study file and all its rows, with tiny models in place of real ones.

    python benchmarks/llava15_rehearsal.py FOLDER [--share 0.01]

Makes manifests of 558,128 and 665,298 rows with every kind of odd row, starts the study on 8 processes with 30
optimizer steps a stage, kills everything with SIGKILL after the first checkpoint of stage 2, and resumes on 4 processes
until all eight benchmarks are evaluated, on a few made-up questions each. Prints what it took, and which limits held:

    index of both manifests               under 6 minutes on two cores, under 3 GB in all its processes
    controller                            under 1 GB
    a process waits for another           60 s at most (the processes' collectives are given up after that)

--share takes that share of the rows, to try the script itself. Of the candidates it takes the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

STUDY = ROOT / "studies" / "llava15" / "study.yaml"
ROWS = {"align": 558_128, "finetune": 665_298}
STEPS, CHECKPOINT_EVERY, CANDIDATES = 30, 10, 2
LIMIT_WAIT = 60  # seconds
PICTURES = 500
ODD_EVERY = 2_000  # one row of so many is odd


# -- what stands in for models and data --------------------------------------------------------------------------------


def write_text(seed: int, count: int) -> list[str]:
    """Sentences of made-up words, as frequent as words are."""
    rng = np.random.default_rng(seed)
    syllables = ["ka", "lo", "mi", "ra", "tu", "ne", "so", "vi", "pe", "da", "shi", "ro", "ba", "ing", "er", "al"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(5000)]
    chance = 1 / np.arange(1, 5001)
    chosen = rng.choice(5000, (count, 12), p=chance / chance.sum())
    return [" ".join(words[i] for i in row) + "." for row in chosen.tolist()]


def write_llm(folder: Path, text: list[str]) -> None:
    """A Llama of width 64 with a byte-level BPE tokenizer of 8,000 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    inner.train_from_iterator(text, trainers.BpeTrainer(vocab_size=8000, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_encoders(folder: Path, candidates: list[str]) -> Path:
    """A tiny tower in place of each encoder, with its name, its sizes and its patches."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from trainers.encoders import load_registry
    from trainers.representation import parse

    registry, rows = load_registry(), {}
    for part in sorted({part for name in candidates for part in parse(name).parts}, key=str):
        spec = registry.find(part)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
        tower = CLIPVisionModel(CLIPVisionConfig(image_size=part.size, patch_size=spec.patch, **shape))
        tower.save_pretrained(folder / str(part))
        row = rows.setdefault(
            part.encoder,
            {"adapter": "transformers", "licence": "none", "patch": spec.patch, "width": 32, "prefix_tokens": 1}
            | {"mean": list(spec.mean), "std": list(spec.std), "checkpoints": {}},
        )
        row["checkpoints"][part.size] = {"model": "clip_vision_model", "weights": f"./{part}"}
    path = folder / "encoders.yaml"
    path.write_text(yaml.safe_dump(rows))
    return path


def write_pictures(folder: Path) -> list[str]:
    """JPEG files of many sizes, and one that is cut short."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = []
    for i in range(PICTURES):
        width, height = rng.integers(200, 640, 2).tolist()
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{i:06}.jpg", quality=85)
        names.append(f"{i:06}.jpg")
    (folder / "broken.jpg").write_bytes((folder / names[0]).read_bytes()[:300])
    return names


def odd_rows(name: str, text: str) -> list[dict[str, Any]]:
    """Every kind of row that LLaVA's data has, or might have, and that is no plain question and answer."""

    def row(*turns: tuple[str, str], image: Any = None) -> dict[str, Any]:
        said = [{"from": who, "value": value} for who, value in turns]
        return {"id": name, "conversations": said} | ({} if image is None else {"image": image})

    question, answer = ("human", f"<image>\n{text}"), ("gpt", text)
    return [
        row(("gpt", "Welcome."), question, answer, image="000001.jpg"),  # the model speaks first
        row(("human", f"<image>\n{text * 300}"), answer, image="000001.jpg"),  # a question longer than the context
        row(("human", "what does <image> mean in HTML?"), answer),  # a mark without an image
        row(("human", f"{text}\n<image>"), answer, image="000002.jpg"),  # the image after the question
        row(question, answer, image="missing.jpg"),
        row(question, answer, image="broken.jpg"),
        row(("human", "<image>\n<image>\nwhich?"), answer, image="000001.jpg"),
        row(question, ("human", text), answer, image="000001.jpg"),  # two questions in a row
        row(question, image="000001.jpg"),  # no answer
        {"id": name, "conversations": []},
        {"id": name},
    ]


def rows(stage: str, count: int, text: list[str], pictures: list[str]) -> Iterator[dict[str, Any]]:
    """Captions of one sentence; or conversations of the lengths of LLaVA's mixture, a part of them without an image."""
    rng = np.random.default_rng(len(stage))
    shown, start = rng.integers(0, len(pictures), count), rng.integers(0, len(text) - 80, count)
    turns = (
        np.ones(count, dtype=int) if stage == "align" else np.clip(rng.lognormal(1.1, 0.8, count), 1, 20).astype(int)
    )
    is_text = rng.random(count) < (0 if stage == "align" else 0.06)
    for i in range(count):
        if i % ODD_EVERY == 7:
            kinds = odd_rows(f"odd-{i}", text[start[i]])
            yield kinds[i // ODD_EVERY % len(kinds)]
            continue
        said, at = [], int(start[i])
        for turn in range(int(turns[i])):
            mark = "" if turn or is_text[i] else "<image>\n"
            answer = text[at + turn + 1 : at + turn + (2 if stage == "align" else 3)]
            said += [
                {"from": "human", "value": mark + text[at + turn]},
                {"from": "gpt", "value": " ".join(answer)},
            ]
        one = {"id": f"{i:09}", "conversations": said}
        yield one if is_text[i] else one | {"image": pictures[shown[i]]}


def write_manifest(path: Path, made: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write("[")
        for number, row in enumerate(made):
            file.write((",\n" if number else "\n") + json.dumps(row))
        file.write("\n]\n")


def write_study(folder: Path, share: float, processes: int) -> dict[str, Any]:
    """The study file with what stands in, and steps in place of epochs."""
    study: dict[str, Any] = yaml.safe_load(STUDY.read_text())
    training = study["training"]
    training["candidates"] = training["candidates"][:CANDIDATES]
    training |= {"llm": "llm", "encoders": ["encoders.yaml"], "processes": processes}
    training["evaluation"]["data"] = {name: f"benchmarks/{name}" for name in training["benchmarks"]}
    for stage, count in ROWS.items():
        training[stage]["epochs"] = STEPS * training[stage]["batch"] / (share * count)
        training[stage]["checkpoint_every"] = CHECKPOINT_EVERY
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return training


def prepare(folder: Path, share: float) -> None:
    from transformers.utils import logging

    from support.keypoint_pairs import write_spair
    from support.paper_benchmarks import save

    logging.disable_progress_bar()
    training = write_study(folder, share, processes=8)
    data, text = folder / "data", write_text(0, 20_000)
    write_llm(folder / "llm", text)
    write_encoders(folder, training["candidates"])
    for stage, count in ROWS.items():
        given = training[stage]
        pictures = write_pictures(data / given["images"])
        write_manifest(data / given["data"], rows(stage, round(share * count), text, pictures))
    write_spair(data / training["correspondence"]["pairs"])
    for name in training["benchmarks"]:
        save(name, data / "benchmarks" / name)


# -- the run, and what is seen of it -----------------------------------------------------------------------------------


@dataclass
class Watch:
    """Peaks of memory of a command, looked at twice a second while it runs.

    Attributes:
        process: the command.
        controller: the most memory of the command's own process, in bytes.
        together: the most memory of the command and all its processes, shared pages counted once.
    """

    process: psutil.Popen
    controller: int = 0
    together: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)

    def read(self) -> None:
        """Keep what the command prints, with the time."""
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
            print("   ", line.rstrip()[:150], flush=True)

    def look(self) -> list[psutil.Process]:
        """Measure once; returns the command's processes."""
        try:
            others = self.process.children(recursive=True)
            self.controller = max(self.controller, self.process.memory_info().rss)
            total = 0
            for one in [self.process, *others]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended meanwhile
            self.together = max(self.together, total)
            return others
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End everything at once, as a machine that goes down would."""
        for one in [*self.process.children(recursive=True), self.process]:
            one.kill()
        self.process.wait()


def run(arguments: list[str], folder: Path, until: Callable[[], bool] = lambda: False) -> Watch:
    """Run acsearch in a folder until it ends or `until` says so, in which case everything of it is killed."""
    limits = {"ACSEARCH_COLLECTIVE_SECONDS": str(LIMIT_WAIT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "acsearch", *arguments]
    print("$ acsearch", *arguments, flush=True)
    child = psutil.Popen(
        command, cwd=folder, env=os.environ | limits, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watch = Watch(child)
    reader = threading.Thread(target=watch.read, daemon=True)
    reader.start()
    while child.poll() is None:
        watch.look()
        if until():
            watch.kill()
            return watch
        time.sleep(0.5)
    reader.join()
    if child.returncode:
        raise SystemExit(f"acsearch {' '.join(arguments)} ended with {child.returncode}")
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, str, bool]] = []

    began = time.monotonic()
    prepare(folder, given.share)
    print(f"made up in {time.monotonic() - began:.0f} s", flush=True)

    began = time.monotonic()
    watch = run(["data", "index", "."], folder)
    minutes, memory = (time.monotonic() - began) / 60, watch.together / 1e9
    found += [("index", f"{minutes:.1f} minutes", minutes < 6), ("index", f"{memory:.2f} GB together", memory < 3)]

    checkpoints = folder / "acsearch-runs"

    def in_stage_two() -> bool:
        """Whether the finetune has committed a checkpoint."""
        for job in checkpoints.glob("**/stages/*/training.json"):
            if json.loads(job.read_text())["stage"]["template"] == "vicuna_v1" and list(job.parent.glob("step-*")):
                return True
        return False

    began = time.monotonic()
    first = run(["study", "start", ".", "--name", "rehearsal", "--budget", "1"], folder, in_stage_two)
    found.append(
        ("killed", f"in stage 2, after {(time.monotonic() - began) / 60:.1f} minutes", first.process.returncode == -9)
    )
    write_study(folder, given.share, processes=4)
    began = time.monotonic()
    second = run(["study", "resume", "rehearsal"], folder)
    found.append(("resumed", f"on 4 processes, {(time.monotonic() - began) / 60:.1f} minutes", True))
    memory = max(first.controller, second.controller) / 1e9
    found.append(("controller", f"{memory:.2f} GB", memory < 1))
    found.append(("waits", f"none above {LIMIT_WAIT} s", True))  # else a process had been given up
    run(["study", "show", "rehearsal"], folder)
    print()
    for what, value, kept in found:
        print(f"{what:12} {value:40} {'ok' if kept else 'NOT KEPT'}")
    raise SystemExit(0 if all(kept for *_, kept in found) else 1)


if __name__ == "__main__":
    main()
