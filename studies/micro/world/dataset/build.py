"""Write the world's data set: captions, conversations, benchmarks and keypoint pairs.

    captions.parquet, captions_heldout.parquet, instruct.parquet    id, image, conversations (LLaVA's form)
    benchmarks/<kind>.parquet                                       id, image, question, answer (`datasets.Image`)
    pairs/                                                          the layout of SPair-71k, and keypoints.json
    world.json                                                      what it was made from, and a digest of that

A folder appears whole or not at all: everything is written beside it and then renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.micro.world.dataset.benchmarks import benchmark
from studies.micro.world.dataset.pairs import write_pairs
from studies.micro.world.language.captions import captions
from studies.micro.world.language.questions import KINDS, questions
from studies.micro.world.scenes.draw import draw
from studies.micro.world.scenes.scene import WORLD_VERSION, Scene, scene
from trainers.errors import DataError
from trainers.utils.locks import Locks
from trainers.utils.progress import CountCallback

MARKER = "world.json"
_CHUNK = 100  # scenes that a worker makes at a time
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large the data set is.

    Attributes:
        captions: images with captions.
        heldout: images with captions that are not trained on.
        instruct: images with conversations.
        per_benchmark: images of each benchmark, with one question each.
        pairs: keypoint pairs.
        pair_images: images among which the pairs are chosen.
    """

    captions: int = 1200
    heldout: int = 100
    instruct: int = 1500
    per_benchmark: int = 200
    pairs: int = 300
    pair_images: int = 60


def build(folder: Path, *, seed: int, sizes: Sizes, workers: int = 2, progress: CountCallback | None = None) -> None:
    """Write the data set into `folder`, unless it is there already.

    A data set of another seed, other sizes or an older version of the world is replaced, and so is a half copied one.

    Args:
        folder: where it is written.
        seed: of the world.
        sizes: how large it is.
        workers: processes that draw.
        progress: is called with how many images are done.

    Raises:
        DataError: the folder holds files that are not the world's.
    """
    folder = folder.absolute()
    made_from = _made_from(seed, sizes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Locks(folder.parent).exclusive(f".{folder.name}.lock"):
        if _marker(folder) == made_from:
            return
        _check_ours(folder)
        fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
        fresh.mkdir()
        _write(fresh, seed, sizes, workers, progress)
        (fresh / MARKER).write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)


def _made_from(seed: int, sizes: Sizes) -> Row:
    facts: Row = {"world": WORLD_VERSION, "seed": seed, "sizes": asdict(sizes)}
    return {**facts, "digest": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def _marker(folder: Path) -> Row | None:
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _check_ours(folder: Path) -> None:
    ours = {"captions.parquet", "captions_heldout.parquet", "instruct.parquet", "benchmarks", "pairs", MARKER}
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder for the data set")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if foreign:
        raise DataError(f"{folder} holds {foreign[0]!r}, which is no part of the data set; give a folder of its own")


def _write(folder: Path, seed: int, sizes: Sizes, workers: int, progress: CountCallback | None) -> None:
    total = sizes.captions + sizes.heldout + sizes.instruct + sizes.per_benchmark * len(KINDS) + sizes.pair_images
    done = 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, total)

    tables = {
        "captions": ("captions", sizes.captions),
        "captions_heldout": ("heldout", sizes.heldout),
        "instruct": ("train", sizes.instruct),
        **{f"benchmarks/{kind}": (kind, sizes.per_benchmark) for kind in KINDS},
    }
    tasks = [
        (table, source, seed, range(start, min(start + (count if source in KINDS else _CHUNK), count)))
        for table, (source, count) in tables.items()
        for start in range(0, count, count if source in KINDS else _CHUNK)
    ]
    rows: dict[str, list[Row]] = {table: [] for table in tables}
    for (table, *_), made in zip(tasks, _each(tasks, workers), strict=True):
        rows[table] += made
        tick(len(made))
    for table in tables:
        _write_parquet(folder / f"{table}.parquet", rows[table], table.startswith("benchmarks/"))
    write_pairs(folder / "pairs", seed, sizes.pairs, sizes.pair_images, tick)


Task = tuple[str, str, int, range]


def _each(tasks: list[Task], workers: int) -> Iterator[list[Row]]:
    if workers <= 1:
        yield from map(_rows, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_rows, tasks)


def _rows(task: Task) -> list[Row]:
    """The rows of one task, in order."""
    _, source, seed, numbers = task
    if source in KINDS:
        asked = zip(benchmark(seed, source), numbers, strict=False)
        return [
            {
                "id": f"{source}-{number:05d}",
                "image": {"bytes": png(shown), "path": f"{source}-{number:05d}.png"},
                "question": question.question,
                "answer": question.answer,
            }
            for (shown, question), number in asked
        ]
    made = [(f"{source}-{number:05d}", scene(seed, source, number)) for number in numbers]
    talk = _conversation if source == "train" else _captioned
    return [{"id": name, "image": png(shown), "conversations": talk(shown)} for name, shown in made]


def png(shown: Scene) -> bytes:
    """The picture of a scene as PNG."""
    buffer = io.BytesIO()
    draw(shown).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _captioned(shown: Scene) -> list[Row]:
    return [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": captions(shown)}]


def _conversation(shown: Scene) -> list[Row]:
    """All questions of a scene, the image before the first."""
    turns: list[Row] = []
    for question in questions(shown):
        turns.append({"from": "human", "value": question.question if turns else f"<image>\n{question.question}"})
        turns.append({"from": "gpt", "value": question.answer})
    return turns


def _write_parquet(path: Path, rows: list[Row], is_benchmark: bool) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]  # a tenth of a second, and nothing else of the world needs it
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    text = pa.string()
    if is_benchmark:
        value = {"dtype": "string", "_type": "Value"}
        features = {"id": value, "image": {"_type": "Image"}, "question": value, "answer": value}
        image = pa.struct([("bytes", pa.binary()), ("path", text)])
        schema = pa.schema([("id", text), ("image", image), ("question", text), ("answer", text)])
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    else:
        turns = pa.list_(pa.struct([("from", text), ("value", text)]))
        schema = pa.schema([("id", text), ("image", pa.binary()), ("conversations", turns)])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
