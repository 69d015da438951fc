"""Manifests are read as LLaVA reads them, whatever their form, and every bad row is named before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from support import tiny
from support.tiny_samples import samples, say
from trainers.data import index as index_module
from trainers.data.index import CHUNK, Source, build_index
from trainers.data.samples import Samples
from trainers.data.templates import IGNORE_INDEX, IMAGE_ID
from trainers.errors import ConfigError, DataError

Records = list[dict[str, Any]]


def parquet(path: Path, records: Records, image: Callable[[dict[str, Any]], Any], kind: Any) -> Path:
    """The same records with `image` as a column of some type; conversations as they are."""
    turns = pyarrow.list_(pyarrow.struct({"from": pyarrow.string(), "value": pyarrow.string()}))
    if isinstance(records[0]["conversations"], str):
        turns = pyarrow.string()
    columns = {
        "id": pyarrow.array([record["id"] for record in records]),
        "image": pyarrow.array([image(record) for record in records], kind),
        "conversations": pyarrow.array([record["conversations"] for record in records], turns),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=5)
    return path


def test_every_form_of_a_manifest_says_the_same(folder: Path, original: Samples, words: Any) -> None:
    records = json.loads(original.source.manifest.read_text())
    in_json = [{**record, "conversations": json.dumps(record["conversations"])} for record in records]
    struct = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})

    def content(record: dict[str, Any]) -> bytes | None:
        return (folder / record["image"]).read_bytes() if "image" in record else None

    def dataset_image(record: dict[str, Any]) -> dict[str, Any]:
        """As datasets writes it: never null itself."""
        return {"bytes": content(record), "path": "elsewhere.png" if "image" in record else None}

    forms = [
        parquet(folder / "bytes.parquet", records, content, pyarrow.binary()),
        parquet(folder / "names.parquet", records, lambda record: record.get("image"), pyarrow.string()),
        parquet(folder / "struct.parquet", in_json, dataset_image, struct),
        parquet(folder / "paths.parquet", in_json, lambda one: {"bytes": None, "path": one.get("image")}, struct),
    ]
    assert original.with_image.sum() == 21
    for template, supervised in (("plain", 24), ("chat", 7 * 24)):  # red; red </s>, it is red . </s>
        expected = samples(original.source.manifest, words, template)
        for form in (samples(path, words, template) for path in forms):
            assert len(form) == len(expected) == form.rows == 24
            assert form.lengths.tolist() == expected.lengths.tolist()
            assert form.images_digest == expected.images_digest
            assert form.supervised_tokens == supervised
            for index in range(24):
                assert form.name(index) == expected.name(index) == f"sample-{index}"
                found, wanted = form.tokens(index, 16, 200), expected.tokens(index, 16, 200)
                assert found.input_ids.tolist() == wanted.input_ids.tolist()
                assert found.labels.tolist() == wanted.labels.tolist()
                image, other = form.image(index), expected.image(index)
                assert (image is None) == (other is None) == (index % 8 == 7)
                assert image is None or other is None or image.tobytes() == other.tobytes()
            assert form.text_tokens == sum(len(form.tokens(i, 1, 200).input_ids) for i in range(24)) - 21


TWO_QUESTIONS = [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}, {"from": "gpt", "value": "red"}]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no reply": (say("<image>\nwhat"), "no supervised token"),
    "two marks": (say("<image>\n<image>\nwhat", "red"), "1 image but 2 <image>"),
    "missing": (say("<image>\nwhat", "red", image="nowhere.png"), r"cannot read an image from '.*nowhere.png'"),
    "broken": (say("<image>\nwhat", "red", image="broken.png"), r"cannot read an image from '.*broken.png'"),
    "no picture": (say("<image>\nwhat", "red", image="text.png"), r"cannot read an image from '.*text.png'"),
    "two images": (say("<image>\nwhat", "red") | {"image": ["0.png", "1.png"]}, "2 images but 1 <image>"),
    "a number": (say("<image>\nwhat", "red") | {"image": [7]}, "must be the name of a file"),
    "empty": ({"id": "bad", "conversations": []}, "its conversation is empty"),
    "the model alone": ({"id": "bad", "conversations": TWO_QUESTIONS[2:]}, "its conversation is empty"),
    "none": ({"id": "bad"}, "conversations must be a list of {from: human or gpt, value}"),
    "no value": ({"id": "bad", "conversations": [{"from": "human", "value": None}]}, "problem with value None"),
    "who": ({"id": "bad", "conversations": [{"from": "system", "value": "a"}]}, "problem with 'system'"),
    "no JSON": ({"id": "bad", "conversations": "[{"}, "conversations must be a list"),
    "two questions": ({"id": "bad", "conversations": TWO_QUESTIONS}, "must alternate"),
    "half a pair": (say("\ud83d", "red", image=None), "surrogates not allowed"),
}


@pytest.fixture(scope="module")
def broken_images(folder: Path, original: Samples) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "text.png").write_text("not a picture")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.usefixtures("broken_images")
def test_a_bad_row_is_named_or_left_out(folder: Path, words: Any, kind: str) -> None:
    row, message = BAD[kind]
    path = folder / f"{kind.replace(' ', '-')}.json"
    path.write_text(json.dumps([say("<image>\nwhat", "red", name="good"), row]))
    with pytest.raises(DataError, match=r"json: 1 of 2 samples can't be trained on: sample bad: .*" + message):
        samples(path, words)
    with pytest.raises(DataError, match=r"max_dropped allows 40.0%"):
        samples(path, words, drop=0.4)
    left = samples(path, words, drop=0.5)
    assert [left.name(index) for index in range(len(left))] == ["good"]
    assert [(one.row, one.name) for one in left.dropped] == [(1, "bad")]


def test_many_bad_rows_are_counted_and_the_first_named(tmp_path: Path, words: Any) -> None:
    path = tmp_path / "many.json"
    path.write_text(json.dumps([say("what", name=f"bad-{i}", image=None) for i in range(9)]))
    with pytest.raises(DataError, match=r"9 of 9 .* bad-0: .* bad-4: .*; and 4 more$"):
        samples(path, words, drop=0.9)


def test_odd_rows_are_taken_as_llava_takes_them(folder: Path, original: Samples, words: Any) -> None:
    image, what, red, end, unknown = IMAGE_ID, 10, 5, 2, 3
    greeting = [{"from": "gpt", "value": "big"}, *say("what", "red")["conversations"]]
    rows: dict[str, tuple[dict[str, Any], list[int], bool]] = {
        "the model begins": ({"id": "1", "conversations": greeting}, [what, red, end], False),
        "a mark without an image": (say("<image> what", "red", image=None), [unknown, what, red, end], False),
        "an image without a mark": (say("what", "red"), [what, red, end], False),
        "a mark behind the question": (say("what <image>", "red"), [what, image, red, end], True),
    }
    path = folder / "odd.json"
    path.write_text(json.dumps([row for row, _, _ in rows.values()]))
    found = samples(path, words)
    roles = {20, 21}  # user: and assistant:
    for index, (kind, (_, expected, shown)) in enumerate(rows.items()):
        assert [one for one in found.tokens(index, 1, 99).input_ids.tolist() if one not in roles] == expected, kind
        assert (found.image(index) is not None) == shown, kind
    first = samples(path, words, "vicuna_v1").tokens(3, 1, 99).input_ids.tolist()
    assert first.index(image) < first.index(what)  # LLaVA's templates show the image before the question


def test_what_is_no_manifest_is_refused(tmp_path: Path, words: Any) -> None:
    def fails(message: str, name: str, content: str | None) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises((DataError, ConfigError), match=message):
            samples(path, words)

    fails("No such file", "nowhere.json", None)
    fails("cannot be read", "half.json", "[{")
    fails("not a JSON list", "one.json", "{}")
    fails("must be a list of samples", "texts.json", '["a"]')
    fails("no sample in it", "none.json", "[]")
    fails("a manifest is a .json or a .parquet file", "data.jsonl", "{}")
    fails("cannot be read", "text.parquet", "not parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"]}), tmp_path / "id.parquet")
    fails("no column 'conversations'; it has id", "id.parquet", None)


def test_a_long_sample_is_cut_to_its_positions(original: Samples) -> None:
    whole = original.tokens(0, 16, 200)
    assert len(whole.input_ids) + 15 == 39
    cut = original.tokens(0, 16, 35)
    assert len(cut.input_ids) + 15 == 35
    assert cut.labels.tolist() == whole.labels[:20].tolist()
    without = original.tokens(0, 16, 16)  # user:, and no room for the image
    assert without.input_ids.tolist() == whole.input_ids[:1].tolist()


@pytest.mark.parametrize("longest", [1, 2, 10, 16, 17, 18, 25, 26, 27, 39, 200])
def test_samples_that_teach_nothing_are_counted(original: Samples, longest: int) -> None:
    cut = [original.tokens(index, 16, longest).labels for index in range(24)]
    assert original.idle(16, longest) == sum(not (labels[1:] != IGNORE_INDEX).any() for labels in cut)


def test_an_index_is_made_in_several_processes_and_taken_up_again(tmp_path: Path, words: Any) -> None:
    """What an interrupted call did is not done again, and the result is the same."""
    rows = [say("what", "red", name=f"s{number}", image=None) for number in range(2 * CHUNK)]
    rows += [say("what", name=f"bad{number}", image=None) for number in range(CHUNK)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps([*rows, say("it", "is", name="last", image=None)]))
    source = Source(path, None, "chat", words)

    def interrupted(text: str) -> None:
        if "12,288" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(source, tmp_path / "one", interrupted, processes=2)
    (parts,) = (tmp_path / "one").glob("*.parts")
    assert [*parts.iterdir()]
    one = build_index(source, tmp_path / "one", processes=2)
    other = build_index(source, tmp_path / "other", processes=1)
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}
    read = Samples(one, source)
    assert (len(read), len(read.dropped), read.name(len(read) - 1)) == (2 * CHUNK + 1, CHUNK, "last")
    assert not parts.exists()


def test_what_an_interrupted_index_has_is_not_made_again(
    tmp_path: Path, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.json"
    path.write_text(json.dumps([say("what", "red", name=f"s{number}", image=None) for number in range(CHUNK + 1)]))
    source, made = Source(path, None, "chat", words), list[str]()
    examine = index_module._examine

    def second_fails(chunk: list[Any], first: int, part: Path) -> None:
        made.append(part.name)
        if len(made) == 2:
            raise MemoryError
        examine(chunk, first, part)

    monkeypatch.setattr(index_module, "_examine", second_fails)
    with pytest.raises(MemoryError):
        build_index(source, tmp_path / "index")
    assert len(Samples(build_index(source, tmp_path / "index"), source)) == CHUNK + 1
    assert made == ["000000.npz", "000001.npz", "000001.npz"]


def test_an_index_belongs_to_its_manifest_template_and_tokenizer(tmp_path: Path, words: Any) -> None:
    path = tiny.manifest(tmp_path, 4, turns=1)
    key = Source(path, None, "chat", words).key
    assert Source(path, tmp_path, "chat", tiny.tokenizer()).key == key
    other = tiny.tokenizer()
    other.chat_template += " "
    keys = {key, Source(path, None, "plain", words).key, Source(path, None, "chat", other).key}
    keys.add(Source(path, tmp_path / "elsewhere", "chat", words).key)
    path.write_text(path.read_text().replace("red", "blue"))
    keys.add(Source(path, None, "chat", words).key)
    assert len(keys) == 5
