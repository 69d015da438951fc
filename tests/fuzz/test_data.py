"""Damaged images, manifests and image pairs: decoded, or refused naming the file or the sample."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from acsearch.scores.correspondence import correspondence
from acsearch.scores.pairs import read_pairs
from support import fuzzing, tiny
from support.fuzzing import accepted, cases, damaged_bytes, damaged_tree, laid_out
from trainers.data.samples import Samples, read_samples
from trainers.encoders.images import open_image
from trainers.framings import pixels
from trainers.framings.square import fit, frame

TOKENIZER = tiny.tokenizer()


# -- images ------------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def declared_png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = bytes(64)) -> bytes:
    """A PNG that says it has these sides."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RED = tiny.picture("red", 0)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned
IMAGES = {
    "png": encoded(RED, "PNG"),
    "jpeg": encoded(RED, "JPEG", exif=EXIF),
    "progressive": encoded(RED, "JPEG", progressive=True),
    "cmyk": encoded(RED.convert("CMYK"), "JPEG"),
    "grey": encoded(RED.convert("L"), "PNG"),
    "bits": encoded(RED.convert("1"), "PNG"),
    "palette": encoded(RED.quantize(8), "PNG", transparency=3),
    "alpha": encoded(RED.convert("RGBA"), "PNG"),
    "16 bits": encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"),
    "gif": encoded(RED, "GIF", save_all=True, append_images=[tiny.picture("blue", 1)]),
    "apng": encoded(RED, "PNG", save_all=True, append_images=[tiny.picture("blue", 1)]),
    "webp": encoded(RED, "WEBP"),
    "bmp": encoded(RED, "BMP"),
    "tiff": encoded(RED, "TIFF", compression="tiff_lzw"),
    "ppm": encoded(RED, "PPM"),
    "ico": encoded(RED.resize((32, 32)), "ICO"),
    "tga": encoded(RED, "TGA"),
    "jpeg 2000": encoded(RED, "JPEG2000"),
}
FLOATS = encoded(Image.fromarray(np.ones((30, 40), np.float32)), "TIFF")
HUGE = [declared_png(*sides) for sides in ((0, 1), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (20000, 20000), (1, 10**9))]
FOREIGN = [
    b"",
    b"\x00",
    b"not an image",
    b"<svg/>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"PK\x03\x04",
    FLOATS,
    *HUGE,
]


@cases(
    300, st.sampled_from(FOREIGN) | st.sampled_from(sorted(IMAGES)).flatmap(lambda name: damaged_bytes(IMAGES[name]))
)
def test_image(tmp_path: Path, damaged: bytes) -> None:
    laid_out(tmp_path, {"picture.jpg": damaged})  # whatever it is

    def read() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's about EXIF and truncated frames
            image = open_image(tmp_path / "picture.jpg")
        assert image.mode == "RGB"
        if image.width * image.height > 10**6:
            return
        assert min(image.size) > 0
        assert fit(image, 32, (0.5, 0.5, 0.5)).size == (32, 32)
        assert pixels(image).shape == (3, image.height, image.width)
        assert open_image(damaged).tobytes() == image.tobytes()

    accepted(read, tmp_path, ["picture.jpg"])


@pytest.mark.parametrize("name", IMAGES)
def test_undamaged_images_of_every_kind_look_alike(name: str) -> None:
    image = open_image(IMAGES[name])
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0)
    if name in ("grey", "bits", "16 bits"):
        assert red == green == blue
    else:
        assert red > 180 > 80 > max(green, blue)


def test_sixteen_bits_keep_their_brightness() -> None:
    for value in (0, 100 * 257, 255 * 257):
        image = encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG")
        assert np.asarray(open_image(image)).tolist() == np.full((4, 4, 3), value // 257).tolist()


# -- manifests ---------------------------------------------------------------------------------------------------------

SAMPLES = [
    {
        "id": f"s{number}",
        "image": f"{colour}.png",
        "conversations": [
            {"from": "human", "value": "<image>\nwhat colour is the shape ?"},
            {"from": "gpt", "value": f"it is {colour} ."},
        ],
    }
    for number, colour in enumerate(tiny.COLOURS)
] + [{"id": "text", "conversations": [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "it ."}]}]
PICTURES = {f"{colour}.png": encoded(tiny.picture(colour, 0), "PNG") for colour in tiny.COLOURS}
VALUES = st.sampled_from(["<image>", "<image><image>", "", "system", "gpt", "red.png", "/etc/hostname", ".", "\ud83d"])


def trained(manifest: Path) -> None:
    """All that training asks of a manifest before its first step."""
    template = "plain" if manifest.stat().st_size % 2 else "chat"
    with tempfile.TemporaryDirectory() as folder:
        read = read_samples(manifest, None, template=template, tokenizer=TOKENIZER, folder=Path(folder))
        looked_at(read)


def looked_at(read: Samples) -> None:
    assert len(read) == read.rows > read.idle(4, 64) == 0
    for index in range(len(read)):
        assert read.name(index)
        assert (read.image(index) is not None) == read.with_image[index]


@st.composite
def damaged_json(draw: fuzzing.Draw, tree: Any) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(
            damaged_bytes(json.dumps(tree).encode()) | st.sampled_from([b"[" * 9999, b'[{"id": ' * 999, b"[NaN]"])
        )
    return json.dumps(draw(damaged_tree(tree, VALUES)), default=str).encode()


@cases(250, damaged_json(SAMPLES))
def test_json_manifest(tmp_path: Path, damaged: bytes) -> None:
    laid_out(tmp_path, PICTURES | {"train.json": damaged})
    accepted(lambda: trained(tmp_path / "train.json"), tmp_path, ["train.json"])


def parquet(samples: list[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(samples), buffer, **options)
    return buffer.getvalue()


WITH_BYTES = [
    one | {"image": {"bytes": PICTURES[one["image"]], "path": one["image"]}} for one in SAMPLES if "image" in one
]
PARQUETS = [parquet(SAMPLES), parquet(WITH_BYTES), parquet(WITH_BYTES, compression="none", use_dictionary=False)]
COLUMNS = {
    "id": [
        pyarrow.array([1, 2]),
        pyarrow.array([None, None]),
        pyarrow.array([b"\xff", b"a"]),
        pyarrow.array([["a"], []]),
    ],
    "conversations": [
        pyarrow.array(["[]", "{"]),
        pyarrow.array([1, 2]),
        pyarrow.array([None, None]),
        pyarrow.array([[{"from": "human"}], []]),
        pyarrow.array([["human"], ["gpt"]]),
        pyarrow.array(['[{"from": "human", "value": 1}]', "[" * 5000]),
        pyarrow.StringArray.from_buffers(
            2, pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff\xfe")
        ),
    ],
    "image": [
        pyarrow.array([1, 2]),
        pyarrow.array([b"\x89PNG", b""]),
        pyarrow.array([{"bytes": b"", "path": None}, {"bytes": None, "path": "x" * 300}]),
        pyarrow.array([{"bytes": 1}, {"bytes": 2}]),
        pyarrow.array([{"file": "x"}, None]),
        pyarrow.array([["red.png"], ["red.png"]]),
        pyarrow.array(["\x00", "red.png/x"]),
    ],
}


@st.composite
def damaged_parquet(draw: fuzzing.Draw) -> bytes:
    """A parquet file with damaged bytes; or a sound one whose columns hold other things."""
    if draw(st.booleans()):
        return draw(damaged_bytes(draw(st.sampled_from(PARQUETS))))
    names = draw(st.lists(st.sampled_from([*COLUMNS, *COLUMNS, "extra"]), min_size=1, max_size=4))
    arrays = [draw(st.sampled_from(COLUMNS.get(name, COLUMNS["id"]))) for name in names]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=names), buffer)
    return buffer.getvalue()


@cases(200, damaged_parquet())
def test_parquet_manifest(tmp_path: Path, damaged: bytes) -> None:
    laid_out(tmp_path, PICTURES | {"train.parquet": damaged})
    accepted(lambda: trained(tmp_path / "train.parquet"), tmp_path, ["train.parquet"])


# -- pairs -------------------------------------------------------------------------------------------------------------

PAIR = {
    "category": "cat",
    "src_imname": "a.jpg",
    "trg_imname": "b.jpg",
    "src_imsize": [40, 30, 3],
    "trg_imsize": [40, 30, 3],
    "trg_bndbox": [2, 2, 30, 25],
    "src_kps": [[3, 4], [20, 9], [30, 20]],
    "trg_kps": [[5, 4], [21, 9], [28, 20]],
    "kps_ids": ["0", "1", "5"],
}
KEYPOINTS = {"cat": {"groups": [[0, 1], [2, 3]]}}
SHOWN = {"kps": {str(number): [number, number] if number < 4 else None for number in range(8)}}
PAIRS: dict[str, Any] = {
    "PairAnnotation/test/1-a-b:cat.json": PAIR | {"kps_ids": [0, 1, 5]},
    "PairAnnotation/test/2-b-a:cat.json": PAIR | {"src_imname": "b.jpg", "trg_imname": "a.jpg", "kps_ids": [0, 1, 5]},
    "ImageAnnotation/cat/a.json": SHOWN,
    "ImageAnnotation/cat/b.json": SHOWN,
    "keypoints.json": KEYPOINTS,
}
OTHERS = {
    "JPEGImages/cat/a.jpg": IMAGES["progressive"],
    "JPEGImages/cat/b.jpg": IMAGES["progressive"],
    "Layout/large/test.txt": b"1-a-b:cat\n2-b-a:cat\n",
}
SOUND = {name: json.dumps(tree).encode() for name, tree in PAIRS.items()} | OTHERS


@st.composite
def damaged_pairs(draw: fuzzing.Draw) -> dict[str, bytes]:
    """One file of a folder of pairs damaged, or missing, or doubled under another name."""
    name = draw(st.sampled_from([*PAIRS, *PAIRS, *OTHERS]))
    kind = draw(st.sampled_from(["damage"] * 8 + ["missing", "renamed"]))
    files = dict(SOUND)
    if kind == "missing":
        del files[name]
    elif kind == "renamed":
        files[name.replace("cat", "dog").replace("a", "e", 1)] = files[name]
    elif name in PAIRS:
        files[name] = draw(damaged_json(PAIRS[name]))
    else:
        files[name] = draw(damaged_bytes(files[name]))
    return files


@cases(200, damaged_pairs())
def test_pairs(tmp_path: Path, damaged: dict[str, bytes]) -> None:
    folder = tmp_path / "pairs"
    laid_out(tmp_path, {f"pairs/{name}": content for name, content in damaged.items()})

    def read() -> None:
        pairs = read_pairs(folder)
        assert 1 <= len(pairs) <= 3
        assert pairs.points >= 1
        maps = torch.arange(len(pairs.images) * 16.0).reshape(-1, 4, 4, 1).cos()
        frames = [frame(int(width), int(height), 32) for width, height in pairs.sizes]
        assert 0 <= correspondence(maps, pairs, frames).per_image <= 100

    accepted(read, tmp_path, [str(folder)])
