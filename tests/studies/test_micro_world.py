"""The micro study's world: a pure function of its seed, whose texts and points say what its pictures show."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from studies.micro.world import (
    BENCHMARKS,
    KINDS,
    LABELS,
    Question,
    Sizes,
    benchmark,
    bounding_box,
    build,
    captions,
    describe,
    draw,
    keypoints,
    labels,
    portrait,
    questions,
    scene,
    vocabulary,
)
from studies.micro.world import names as n
from studies.micro.world.dataset.benchmarks import measured_floors
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.pose import placed
from support.description_reader import Reader
from trainers.errors import DataError

SCENES = [scene(0, "train", index) for index in range(300)]
TINY = Sizes(captions=6, heldout=2, instruct=5, per_benchmark=3, pairs=10, pair_images=10)


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    again = [scene(0, "train", index) for index in range(300)]
    assert again == SCENES
    assert captions(again[7]) == captions(SCENES[7])
    assert draw(again[7]).tobytes() == draw(SCENES[7]).tobytes()


def test_other_splits_and_seeds_share_no_scene() -> None:
    drawn = [
        replace(scene(seed, split, index), key="")
        for seed, split in ((0, "train"), (0, "test"), (0, "pretrain"), (1, "train"))
        for index in range(100)
    ]
    assert len(set(drawn)) == len(drawn)


def test_every_text_keeps_to_the_vocabulary() -> None:
    known = set(vocabulary())
    assert len(known) < 350
    for shown in SCENES:
        asked = questions(shown)
        texts = [captions(shown), describe(shown), *(f"{q.question} {q.answer}" for q in asked)]
        assert {word for text in texts for word in text.split(" ")} <= known
        assert all(q.question.endswith(" ?") and q.answer in BENCHMARKS[q.kind].answers for q in asked)
        assert len({q.question for q in asked}) == len(asked)


def test_every_kind_is_asked_and_every_label_is_known() -> None:
    assert {q.kind for shown in SCENES for q in questions(shown)} == set(KINDS) == set(BENCHMARKS)
    for shown in SCENES:
        assert {name: 0 <= index < len(LABELS[name]) for name, index in labels(shown).items()} == dict.fromkeys(
            LABELS, True
        )


def test_a_reader_of_the_description_answers_every_question() -> None:
    for shown in SCENES:
        reader = Reader(describe(shown))
        for question in questions(shown):
            assert reader.answer(question) == question.answer, (question, describe(shown))


def test_floors_are_those_measured() -> None:
    measured = measured_floors(2500)
    for kind, found in BENCHMARKS.items():
        assert measured[kind] == pytest.approx(found.floor, abs=3)


def test_plain_shapes_have_their_colour() -> None:
    for shown in SCENES:
        pixels = np.asarray(draw(shown))
        for shape in shown.shapes:
            if shape.texture == "plain":
                off = 0.7 * n.SIZES[shape.size] if shape.kind == "ring" else 0
                assert tuple(pixels[int(shape.y), int(shape.x + off)]) == n.COLOURS[shape.colour]


def test_nothing_overlaps_and_all_is_inside() -> None:
    for shown in SCENES:
        boxes = [item.box for item in (*shown.shapes, shown.creature, shown.sign) if item]
        for i, a in enumerate(boxes):
            assert min(a[:2]) >= 0
            assert a[2] <= shown.width
            assert a[3] <= shown.height
            assert all(a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3] for b in boxes[:i])


def test_dots_are_where_their_keypoints_are() -> None:
    for shown in SCENES:
        if shown.creature:
            pixels = np.asarray(draw(shown))
            for dot in shown.creature.dots:
                x, y = keypoints(shown)[dot.keypoint]
                assert tuple(pixels[int(y), int(x)]) == n.DOTS[dot.colour][0]


@pytest.mark.parametrize("species", SPECIES)
def test_parts_have_their_colour_where_their_keypoint_is(species: str) -> None:
    for index in range(30):
        shown = portrait(0, species, index)
        assert shown.creature is not None
        pixels, points, box = np.asarray(draw(shown)), keypoints(shown), bounding_box(shown)
        assert box is not None
        assert all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points.values())
        for part, point in SPECIES[species].parts.items():
            if point in points and "eye" not in point:
                x, y = (int(value) for value in points[point])
                around = pixels[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
                assert n.COLOURS[shown.creature.parts[part]] in {tuple(pixel) for pixel in around}


@pytest.mark.parametrize("species", [name for name, species in SPECIES.items() if not species.mirrored])
def test_left_is_left_of_an_animal_seen_from_above(species: str) -> None:
    """Whichever way it is turned: from tail to head, left lies to the left."""
    front, rear = {"bird": ("beak", "tail"), "beetle": ("head", "end"), "lizard": ("head", "hip")}[species]
    for index in range(30):
        creature = portrait(0, species, index).creature
        assert creature is not None
        points = {k: np.array(p) for k, p in placed(species, creature.genes, creature.pose).keypoints.items()}
        ahead = points[front] - points[rear]
        for left, right in SPECIES[species].pairs:
            across = points[right] - points[left]
            assert ahead[0] * across[1] - ahead[1] * across[0] > 0  # y points down


def test_species_tables_name_only_keypoints_that_grow() -> None:
    for species in SPECIES.values():
        grown = species.grow((0.0,) * 10)
        assert set(grown.keypoints) == set(species.keypoints)
        named = {*species.parts.values(), *species.spots, *(point for pair in species.pairs for point in pair)}
        assert named <= set(species.keypoints)
        assert {*species.parts, *species.trim} <= {piece.part for piece in grown.pieces}


def test_build_writes_llava_benchmarks_and_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    told: list[tuple[int, int]] = []
    build(folder, seed=3, sizes=TINY, workers=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (41, 41)

    captioned = pq.read_table(folder / "captions.parquet").to_pylist()
    assert [turn["from"] for turn in captioned[0]["conversations"]] == ["human", "gpt"]
    assert captioned[0]["conversations"][0]["value"] == "<image>"
    talks = pq.read_table(folder / "instruct.parquet").to_pylist()
    shown = scene(3, "train", 4)
    assert Image.open(io.BytesIO(talks[4]["image"])).tobytes() == draw(shown).tobytes()
    turns = [turn["value"] for turn in talks[4]["conversations"]]
    assert turns == [f"<image>\n{questions(shown)[0].question}", *_turns(questions(shown))[1:]]

    for kind in KINDS:
        table = pq.read_table(folder / "benchmarks" / f"{kind}.parquet")
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        rows = table.to_pylist()
        asked = [question for _, question in zip(range(3), benchmark(3, kind), strict=False)]
        assert [(row["question"], row["answer"]) for row in rows] == [(q.question, q.answer) for _, q in asked]
        assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).mode == "RGB"


def test_pairs_have_the_layout_of_spair(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    build(folder, seed=0, sizes=TINY, workers=1)
    pairs = folder / "pairs"
    points = json.loads((pairs / "keypoints.json").read_text())
    files = sorted((pairs / "PairAnnotation" / "test").glob("*.json"))
    listed = (pairs / "Layout" / "large" / "test.txt").read_text().split("\n")[:-1]
    assert listed == [path.stem for path in files]
    assert len(files) == TINY.pairs
    for path in files:
        pair = json.loads(path.read_text())
        category = pair["category"]
        assert path.stem == pair["filename"] == f"{path.stem.split(':')[0]}:{category}"
        assert pair["src_imname"] != pair["trg_imname"]
        for side in ("src", "trg"):
            image = json.loads(
                (pairs / "ImageAnnotation" / category / f"{pair[f'{side}_imname'][:-4]}.json").read_text()
            )
            size = Image.open(pairs / "JPEGImages" / category / pair[f"{side}_imname"]).size
            assert (*size, 3) == tuple(pair[f"{side}_imsize"])
            assert pair[f"{side}_bndbox"] == image["bndbox"]
            assert pair[f"{side}_kps"] == [image["kps"][key] for key in pair["kps_ids"]]
            assert list(image["kps"]) == [str(i) for i in range(12)]
            x1, y1, x2, y2 = image["bndbox"]
            assert all(x1 <= x <= x2 and y1 <= y <= y2 for x, y in pair[f"{side}_kps"])
        assert all(int(key) < len(points[category]["keypoints"]) for key in pair["kps_ids"])
    for category, species in SPECIES.items():
        named = points[category]["keypoints"]
        assert [tuple(named[i] for i in pair) for pair in points[category]["symmetric"]] == list(species.pairs)


def test_build_happens_once_and_mends_what_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    build(folder, seed=0, sizes=TINY, workers=1)
    first = _contents(folder)
    made = (folder / "world.json").stat().st_mtime_ns
    build(folder, seed=0, sizes=TINY, workers=1)
    assert (folder / "world.json").stat().st_mtime_ns == made

    (folder / "world.json").unlink()
    (folder / "instruct.parquet").write_bytes(b"half")
    left = tmp_path / ".world.new"
    left.mkdir()
    (left / "captions.parquet").write_bytes(b"half")
    build(folder, seed=0, sizes=TINY, workers=2)
    assert _contents(folder) == first
    assert not left.exists()

    build(folder, seed=1, sizes=TINY, workers=1)
    second = _contents(folder)
    assert all(second[name] != content for name, content in first.items() if name.endswith((".parquet", ".jpg")))


def test_build_leaves_foreign_files_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        build(tmp_path, seed=0, sizes=TINY, workers=1)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def _turns(asked: list[Question]) -> list[str]:
    return [text for question in asked for text in (question.question, question.answer)]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
