"""However a bundle is made, it is refused before it takes much memory or time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acsearch.bundles import limits
from acsearch.bundles.limits import MANIFEST_BYTES, TEXT_BYTES, check_json
from acsearch.bundles.writer import Entry, Manifest
from acsearch.config.prior_file import load_prior
from acsearch.config.table_file import load_table
from acsearch.study.identity import FORMAT, digest
from acsearch.study.schema import StudyContent
from support.made_up_bundles import made_up, packed

STAGE = "work/stages/0123456789abcdef01234567"
EMPTY = {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}


def manifest(text: bytes) -> Callable[[Path], Path]:
    return lambda file: packed(file, {"manifest.json": text})


def study(text: bytes) -> Callable[[Path], Path]:
    return lambda file: made_up(file, {"study.json": text})


def whole(attributes: bytes, trials: bytes = b"") -> Callable[[Path], Path]:
    """A study of the right table, which comes as far as an import goes."""
    about = json.dumps(
        {
            "format": FORMAT,
            "title": "",
            "table": {"source": {"table": "law_v1", "study": None}, "digest": digest(load_table("law_v1"))},
            "objective": "mean",
            "policy": "ucb",
            "prior": {"source": "weak", "digest": digest(load_prior("weak"))},
            "seed": 0,
            "started": "2026-11-24T09:24:59",
        }
    ).encode()
    return study(
        b'{"name":"s","attributes":{"acsearch":'
        + about
        + b',"budget":4,'
        + attributes
        + b'},"trials":['
        + trials
        + b"]}"
    )


def many_files(file: Path) -> Path:
    names = [f"work/scores/A-{number:024x}.json" for number in range(100_000)]
    return made_up(file, {"study.json": b"{}"} | dict.fromkeys(names, b""))


def zeros(file: Path) -> Path:
    """A hundred gigabytes, as the manifest says; the tar holds some of them."""
    files = {"study.json": EMPTY, f"{STAGE}/result/weights": {"size": 10**9, "sha256": "0" * 64}}
    about = {"format": 1, "acsearch": "1", "study": "s", "host": "h", "files": files}
    content = {"manifest.json": json.dumps(about).encode(), "study.json": b"", f"{STAGE}/result/weights": bytes(10**9)}
    return packed(file, content)


MANY = 80 << 20
TRIAL = (
    b'{"number":%d,"state":"FAIL","value":null,"candidate":null,"pool":null,"started":"2026-11-24T09:24:59",'
    b'"finished":"2026-11-24T09:24:59","attributes":{"surplus":true}}'
)
HOSTILE: dict[str, Callable[[Path], Path]] = {
    "a manifest of 256 MB": manifest(b'{"format":1,"x":[' + b"[]," * (MANY) + b"[]]}"),
    "a manifest of lists": manifest(b'{"format":1,"x":[' + b"[]," * (10 << 20) + b"[]]}"),
    "a manifest of numbers": manifest(b'{"format":1,"x":[' + b"1.5," * (8_000_000) + b"1]}"),
    "a manifest of keys": manifest(b'{"format":1' + b"".join(b',"%d":1' % n for n in range(2_000_000)) + b"}"),
    "a manifest of one text": manifest(b'{"format":1,"x":"' + b"x" * (32 << 20) + b'"}'),
    "a manifest nested deeply": manifest(b"[" * (20 << 20)),
    "a manifest nested in objects": manifest(b'{"a":' * 5_000_000),
    "a manifest that is one number": manifest(b'{"format":' + b"9" * (30 << 20) + b"}"),
    "a manifest with escapes": manifest(b'{"format":1,"x":"' + rb"\u0041" * 5_000_000 + b'"}'),
    "as many files as may be": many_files,
    "zeros": zeros,
    "a study nested deeply": whole(b'"x":' + b"[" * 10_000_000),
    "a study of lists": whole(b'"x":[' + b"[]," * 20_000_000 + b"[]]"),
    "a study of as many lists as may be": whole(b'"x":[' + b"[]," * 149_980 + b"[]]"),
    "a study of as many numbers as may be": whole(b'"x":[' + b"1.5," * 1_999_900 + b"1]"),
    "a study of as many keys as may be": whole(
        b'"x":{' + b",".join(b'"key of some length %d":1.5' % n for n in range(1_199_900)) + b"}"
    ),
    "a study of as many attributes as may be": whole(b",".join(b'"x%d":{}' % n for n in range(149_990))),
    "a study of scores": whole(
        b",".join(b'"score-%d":{"alignment":[1.0],"correspondence":null}' % n for n in range(149_000 // 2))
    ),
    "a study of one text": whole(b'"x":"' + b"x" * (63 << 20) + b'"'),
    "a study of trials": whole(b'"x":1', b",".join(TRIAL % n for n in range(74_000))),
    "a study larger than may be": whole(b'"x":"' + b"x" * (70 << 20) + b'"'),
}

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.homes import TempHome
from acsearch.bundles.transfer import import_study
import zstandard, optuna, sqlalchemy
from trainers.errors import AcsearchError

def taken():
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024, time.process_time()  # ru_maxrss would count the process that started this

bare = taken()
try:
    import_study(TempHome(Path(sys.argv[2])), Path(sys.argv[1]))
except AcsearchError as error:
    assert len(error.line) < 600, error.line
    print(*(after - before for before, after in zip(bare, taken())), error.line)
else:
    sys.exit("accepted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_the_worst_bundles_take_little_memory_and_time(kind: str, tmp_path: Path) -> None:
    file = HOSTILE[kind](tmp_path / "b")
    support = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", CHILD, str(file), str(tmp_path / "here"), support]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    megabytes, seconds, line = done.stdout.split(" ", 2)
    print(f"{kind}: {float(megabytes):.0f} MB, {float(seconds):.1f} s, {file.stat().st_size / 1e6:.2f} MB file: {line}")
    assert float(megabytes) < 500
    assert float(seconds) < 5  # of the processor
    assert not (tmp_path / "here").exists()


# -- what is real is not refused, and what is counted is what a parser sees -------------------------------------------


def test_ten_thousand_candidates_fit() -> None:
    benchmarks = {f"a_benchmark_of_some_length_{number}": 66.12345678901234 for number in range(20)}
    details = {f"C/a_score_measured_otherwise_{number}": -0.1234567890123456 for number in range(12)}
    scores = {
        "alignment": [-0.8371234567891234] * 20,
        "correspondence": 25.123456789,
        "seconds": 1.0,
        "details": details,
    }
    attributes = {"representation": "a+b", "seconds": 1.0, "checkpoint": "stages/0123456789abcdef01234567/result"}
    trial = {
        "state": "COMPLETE",
        "value": 0.5,
        "pool": 10_000,
        "started": datetime(2026, 11, 24, 9, 24, 59, 1),
        "finished": datetime(2026, 11, 24, 9, 24, 59, 1),
        "attributes": attributes | dict.fromkeys(("points", "errors", "scores"), benchmarks),
    }
    study = StudyContent(
        name="s",
        attributes={f"score-{row}": scores for row in range(10_000)},
        trials=[trial | {"number": row, "candidate": row} for row in range(10_000)],  # type: ignore[misc]
    )
    text = study.model_dump_json(indent=1, exclude_unset=True).encode()
    check_json(text)
    assert len(text) < TEXT_BYTES
    stage, entry = "work/stages/0123456789abcdef{:08x}/{}", Entry(size=10**9, sha256="0" * 64)
    of_candidates = ["outbox.jsonl", *(f"result/file_{number}.safetensors" for number in range(7))]
    of_finetunes = [
        *of_candidates,
        *(f"eval/{kind}/{name}.json" for kind in ("results", "samples") for name in benchmarks),
    ]
    names = ["study.json", *(f"work/scores/{kind}-{row:024x}.json" for kind in "AC" for row in range(10_000))]
    names += [stage.format(row, name) for row in range(10_000) for name in of_candidates]
    names += [stage.format(row, name) for row in range(10_000, 11_000) for name in of_finetunes]
    whole = Manifest(format=1, acsearch="1", study="s", host="h", files=dict.fromkeys(names, entry))
    text = whole.model_dump_json(indent=1).encode()
    check_json(text)
    assert len(text) < MANIFEST_BYTES


JSON = st.recursive(
    st.text(alphabet='a"\\[]{}:,\n☃', max_size=8) | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='"\\[{:,', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def counts(value: object) -> tuple[int, int, int]:
    """Objects, lists, and the depth of nesting."""
    if not isinstance(value, dict | list):
        return 0, 0, 0
    found = [counts(one) for one in (value.values() if isinstance(value, dict) else value)]
    objects, lists = (sum(one[place] for one in found) for place in (0, 1))
    depth = 1 + max((one[2] for one in found), default=0)
    return objects + isinstance(value, dict), lists + isinstance(value, list), depth


@given(JSON, st.booleans())
def test_brackets_are_counted_outside_of_texts_alone(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    objects, lists, depth = counts(value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "_CHUNK", 7)  # so that texts and nesting go on from one chunk to the next
        patched.setattr(limits, "_MOST", {"{": objects, "[": lists})
        patched.setattr(limits, "_DEEPEST", depth)
        check_json(text)
        for name, less in (
            ("_MOST", {"{": objects - 1, "[": lists}),
            ("_MOST", {"{": objects, "[": lists - 1}),
            ("_DEEPEST", depth - 1),
        ):
            with patched.context() as tighter:
                tighter.setattr(limits, name, less)
                with pytest.raises(ValueError, match="more than"):
                    check_json(text)
