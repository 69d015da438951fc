"""Damaged, foreign and made-up bundles: each one clear error, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from acsearch import __version__
from acsearch.bundles.transfer import export_study, import_study
from acsearch.config.table_file import load_table
from acsearch.errors import BundleError
from acsearch.runners.recorded import RecordedRunner
from acsearch.study.study import Study
from support.homes import TempHome
from support.made_up_bundles import content_of, made_up, sealed, tar
from trainers.errors import AcsearchError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two finished finetunes."""
    place = TempHome(tmp_path_factory.mktemp("there"))
    study = place.start(budget=2)
    Study(study, RecordedRunner(load_table("law_v1")), lambda event: None).run()
    export_study(place, "s", place.folder / "good.tar.zst")
    return place.folder / "good.tar.zst"


def refused(file: Path, folder: Path, why: str) -> None:
    with pytest.raises(BundleError, match=why) as raised:
        import_study(TempHome(folder / "here"), file)
    assert len(str(raised.value)) < 500
    assert not (folder / "here").exists()


def test_cut_short(good: Path, tmp_path: Path) -> None:
    whole, file = good.read_bytes(), tmp_path / "b.tar.zst"
    for size in {0, 1, 39, 40, 41, *range(50, len(whole), 97), *range(len(whole) - 45, len(whole))}:
        file.write_bytes(whole[:size])
        refused(file, tmp_path, "not a whole bundle|damaged")
    file.write_bytes(whole + b"\n")
    refused(file, tmp_path, "not a whole bundle")


def test_every_flipped_bit_is_seen(good: Path, tmp_path: Path) -> None:
    whole, file = good.read_bytes(), tmp_path / "b.tar.zst"
    for place in {*range(30), *range(30, len(whole), 13), *range(len(whole) - 45, len(whole))}:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        refused(file, tmp_path, "not a whole bundle|damaged")


def test_not_a_bundle(tmp_path: Path) -> None:
    file = tmp_path / "b.tar.zst"
    refused(file, tmp_path, "No such file")
    refused(tmp_path, tmp_path, "Is a directory")
    for content in (b"", b"hello", bytes(5000), zstandard.compress(tar([("study.json", b"{}")]))):
        file.write_bytes(content)
        refused(file, tmp_path, "not a whole bundle: cut short on its way, or not made by acsearch")


# -- made up, with the right checksum at its end -----------------------------------------------------------------------


def test_what_is_made_up_well_is_taken(good: Path, tmp_path: Path) -> None:
    """Otherwise the others below would be refused for nothing."""
    study = json.dumps(content_of(good)).encode()
    score = "work/scores/A-0123456789abcdef01234567.json"
    done = import_study(
        TempHome(tmp_path / "here"), made_up(tmp_path / "b", {"study.json": study, score: b'{"value": 1}'})
    )
    assert (len(done.changes.add), done.files) == (2, 1)
    assert (tmp_path / "here" / score).read_bytes() == b'{"value": 1}'


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "work/../../x",
        "work/scores/../../../x.json",
        "work/stages/0123456789abcdef01234567/eval/results/../../../../x",
        "work/stages/0123456789abcdef01234567/result/..",
        "work/stages/0123456789abcdef01234567/result/.hidden",
        "work/stages/0123456789abcdef01234567/job.json",
        "work/stages/0123456789ABCDEF01234567/outbox.jsonl",
        "work/scores/A-0123456789abcdef01234567.json\n",
        "studies.db",
    ],
)
def test_names_that_no_bundle_has(good: Path, tmp_path: Path, name: str) -> None:
    study = json.dumps(content_of(good)).encode()
    file = made_up(tmp_path / "b", {"study.json": study, name: b"x"})
    refused(file, tmp_path, "no bundle holds a file")
    # the manifest says a harmless name, the tar another
    harmless = {"study.json": study, "work/scores/A-0123456789abcdef01234567.json": b"x"}
    file = made_up(tmp_path / "b", {"study.json": study, name: b"x"}, said=harmless)
    refused(file, tmp_path, "is not where it should be")
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_other_formats_and_manifests(good: Path, tmp_path: Path) -> None:
    study = json.dumps(content_of(good)).encode()
    file = tmp_path / "b"
    says = rf"a bundle of format 2, by acsearch 9.0; this is acsearch {__version__}, which reads format 1"
    refused(made_up(file, {"study.json": study}, format=2, acsearch="9.0", new={"key": 1}), tmp_path, says)
    refused(made_up(file, {"study.json": study}, new=1), tmp_path, "manifest.json: new: Extra inputs")
    refused(made_up(file, {"study.json": study}, study="../s"), tmp_path, "manifest.json: study")
    refused(made_up(file, {"study.json": study}, study="other"), tmp_path, "of study 'other', and holds 's'")
    refused(made_up(file, {}), tmp_path, "no study.json")
    wrong = {"study.json": study.replace(b"CLIP", b"Clip")}
    refused(made_up(file, {"study.json": study}, said=wrong), tmp_path, "study.json does not have its checksum")
    huge = {"study.json": {"size": 10**16, "sha256": "0" * 64}}
    refused(made_up(file, {"study.json": study}, files=huge), tmp_path, "unpacks to 10000000.0 GB, and .* GB are free")
    refused(made_up(file, {"study.json": study}, more=b"x" * 512), tmp_path, "it goes on behind its last file")
    link = tarfile.TarInfo("manifest.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    refused(sealed(file, tar([(link, b"")])), tmp_path, "manifest.json is not where it should be")
    refused(sealed(file, b"hello" * 500), tmp_path, "no tar")
    refused(sealed(file, b""), tmp_path, "it ends too early")
    refused(sealed(file, tar([("manifest.json", b"[" * 100_000)])), tmp_path, "manifest.json: nested more than 32 deep")


def changed(study: dict[str, Any], path: str, value: object) -> bytes:
    """The study with one value another."""
    *way, last = path.split("/")
    place: Any = study
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return json.dumps(study).encode()


JOB = {"cluster": "c", "job": "1", "log": "/etc/passwd", "submitted": "2026-11-24T09:00:00"}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("name", "a b", "study.json: name"),
        ("extra", 1, "study.json: extra: Extra inputs"),
        ("attributes/acsearch", None, "study.json: acsearch: Input should be"),
        ("attributes/acsearch", "micro", "study.json: acsearch: Input should be"),
        ("attributes/acsearch/prior", {"source": "weak"}, "acsearch.prior.digest: Field required"),
        ("attributes/acsearch/seed", "x", "seed: Input should be a valid integer"),
        ("attributes/acsearch/started", "once", "Invalid isoformat"),
        ("attributes/acsearch/table/source/table", "a\0b", "acsearch.table.source.table: String should match pattern"),
        ("attributes/acsearch/format", 4, r"format 4, where this acsearch reads \(2, 3\)"),
        ("attributes/acsearch/table", {"digest": "x"}, "acsearch.table.source: Field required"),
        ("attributes/acsearch/table/digest", "x", "the table here is not the one that the study was started with"),
        ("attributes/acsearch/table/source/table", "gone.csv", "gone.csv.*give the study's folder here with --study"),
        ("attributes/budget", "many", "budget: Input should be a valid integer"),
        ("attributes/budget", 99, "a budget of 99 finetunes of 13"),
        ("attributes/score-99", {"alignment": [0.0] * 8, "correspondence": None}, "scores of a candidate 99"),
        ("attributes/score-0", {"alignment": [0.0], "correspondence": None}, "scores of a candidate 0 on 1 benchmarks"),
        ("attributes/score-0", {"alignment": "x"}, "alignment: Input should be"),
        ("attributes/score-x", {"alignment": [0.0] * 8, "correspondence": None}, "'score-x': names no piece"),
        ("trials/1/number", 2, "trials are not numbered from 0"),
        ("trials/1/state", "DONE", "trials.1.state"),
        ("trials/1/candidate", 13, "trial 1: candidate 13 of 13"),
        ("trials/1/candidate", -1, "trials.1.candidate"),
        ("trials/1/candidate", 12, "'CLIP336' is not candidate 12"),
        ("trials/1/pool", 14, "trial 1: .* is not candidate"),
        ("trials/1/value", None, "trial 1: COMPLETE, value None"),
        ("trials/1/value", 99, "trial 1: its value is 99, and 0.* by its points"),
        ("trials/1/value", float("nan"), "trials.1.value: Input should be a finite number"),
        ("trials/1/started", "0001-01-01T00:00:00", "trials.1.started: a time in the year 1"),
        ("trials/1/attributes/errors", None, "trial 1: no seconds, or errors"),
        ("trials/1/attributes/seconds", "1", "trials.1.attributes.seconds: Input should be a valid number"),
        ("trials/1/attributes/errors", {"mme": -1.0}, "trials.1.attributes.errors.mme"),
        ("trials/1/attributes/errors", {"other": 1.0}, "trial 1: no seconds, or errors that are not those of"),
        ("trials/1/attributes/points/mme", 1e13, "trials.1.attributes.points.mme: Input should be less than"),
        ("trials/1/attributes/points/mme", 1.0, "trial 1: its score on mme is .* by its points"),
        ("trials/1/attributes/checkpoint", "/etc/passwd", "trial 1: its checkpoint '/etc/passwd' is not in the work"),
        ("trials/1/attributes/representation", "x" * 9999, "trial 1: 'xxx.* is not candidate"),
        ("trials/1/attributes/x\ny", 1, r"an attribute called 'x\\ny'"),
        ("trials/1/attributes/note", "x" * 100_000, "note is longer than 100000 bytes"),
        ("trials/1/state", "WAITING", "trial 1: WAITING, value"),
        ("attributes/acsearch/objective", "none", "the objective 'none' is none of its benchmarks"),
        ("attributes/acsearch/started", "9999-12-31T23:59:59", "acsearch.started: a time in the year 9999"),
        (
            "attributes/job-trial-1",
            JOB,
            "job-trial-1 belongs to the place that it was exported from, and no bundle has",
        ),
        ("attributes/attempts-trial-1", [], "attempts-trial-1 belongs to the place"),
        ("attributes/runs", {"study/s": "0" * 32}, "runs belongs to the place"),
        ("attributes/job-x", 1, "'job-x': names no piece of work"),
        ("trials/1/finished", "yesterday", "trials.1.finished"),
        ("trials/1/attributes/points", {"mme": 1.0}, "trial 1: points are not those of mmbench_en"),
        ("trials/1/attributes/scores/mme", float("nan"), "trials.1.attributes.scores.mme: Input should be"),
        ("trials/1/attributes/scores/mme", "5", "trials.1.attributes.scores.mme: Input should be a valid number"),
    ],
)
def test_studies_that_acsearch_does_not_write(good: Path, tmp_path: Path, path: str, value: object, why: str) -> None:
    study = changed(content_of(good), path, value)
    refused(made_up(tmp_path / "b", {"study.json": study}), tmp_path, why)


@pytest.mark.parametrize("key", ["points", "errors", "seconds", "checkpoint", "scores"])
def test_a_finished_trial_without_all_that_it_measured(good: Path, tmp_path: Path, key: str) -> None:
    study = content_of(good)
    del study["trials"][1]["attributes"][key]
    file = made_up(tmp_path / "b", {"study.json": json.dumps(study).encode()})
    refused(file, tmp_path, f"trial 1: complete, without {key}")


def test_a_policy_that_is_not_known_here(good: Path, tmp_path: Path) -> None:
    study = changed(content_of(good), "attributes/acsearch/policy", "mine")
    with pytest.raises(AcsearchError, match="no policy 'mine'"):
        import_study(TempHome(tmp_path / "here"), made_up(tmp_path / "b", {"study.json": study}))
    assert not (tmp_path / "here").exists()


def test_more_attributes_than_others_can_have_noted(good: Path, tmp_path: Path) -> None:
    study = content_of(good)
    study["attributes"] |= {f"note {number}": number for number in range(101)}
    file = made_up(tmp_path / "b", {"study.json": json.dumps(study).encode()})
    refused(file, tmp_path, "101 attributes that acsearch does not know")


def test_what_is_wrong_with_a_file_that_a_bundle_names_is_not_said(good: Path, tmp_path: Path) -> None:
    """It may name any file here, and errors are printed and logged."""
    (tmp_path / "secrets.csv").write_text("my password\n")
    study = changed(content_of(good), "attributes/acsearch/table/source/table", str(tmp_path / "secrets.csv"))
    with pytest.raises(BundleError, match="cannot be used here; give the study's folder here with --study") as raised:
        import_study(TempHome(tmp_path / "here"), made_up(tmp_path / "b", {"study.json": study}))
    assert "password" not in str(raised.value)


def test_a_standard_error_may_be_unknown(good: Path, tmp_path: Path) -> None:
    """As where there is one sample alone."""
    study = content_of(good)
    scores = {"alignment": [-1.0] * 8, "correspondence": None, "seconds": 1.0}
    study["attributes"]["score-0"] = scores | {"details": {"A/standard_error": float("nan")}}
    score = "work/scores/A-0123456789abcdef01234567.json"
    content = {"study.json": json.dumps(study).encode(), score: b'{"value": -1.0, "standard_error": NaN, "x": null}'}
    here = TempHome(tmp_path / "here")
    assert import_study(here, made_up(tmp_path / "b", content)).changes.scores == 1
    assert len(here.study().snapshot().finished) == 2


@pytest.mark.parametrize("text", [b"{}", b"[1]", b'{"value": null}', b'{"value": NaN}', b'{"value": "1"}', b"[" * 99])
def test_a_measured_score_that_is_no_number(good: Path, tmp_path: Path, text: bytes) -> None:
    study = json.dumps(content_of(good)).encode()
    score = "work/scores/A-0123456789abcdef01234567.json"
    refused(made_up(tmp_path / "b", {"study.json": study, score: text}), tmp_path, score)


def test_a_candidate_finetuned_twice(good: Path, tmp_path: Path) -> None:
    study = content_of(good)
    study["trials"][1] = study["trials"][0] | {"number": 1}
    file = made_up(tmp_path / "b", {"study.json": json.dumps(study).encode()})
    refused(file, tmp_path, "a candidate is finetuned twice")


def test_numbers_come_back_to_the_bit(good: Path, tmp_path: Path) -> None:
    import numpy as np

    study, random = content_of(good), np.random.default_rng(0)
    numbers = random.integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    numbers = [*numbers[np.isfinite(numbers)].tolist(), 5e-324, 1e308, 0.1 + 0.2, float("nan"), float("inf")]
    study["trials"][0]["attributes"]["other"] = numbers
    here = TempHome(tmp_path / "here")
    import_study(here, made_up(tmp_path / "b", {"study.json": json.dumps(study).encode()}))
    export_study(here, "s", tmp_path / "again.tar.zst")
    again = content_of(tmp_path / "again.tar.zst")["trials"][0]["attributes"]["other"]
    np.testing.assert_array_equal(np.array(again), np.array(numbers))


def test_on_the_command_line(good: Path, tmp_path: Path) -> None:
    def acsearch(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ACSEARCH_HOME": str(tmp_path / "runs")}
        command = [sys.executable, "-m", "acsearch", "study", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    broken = tmp_path / "broken.tar.zst"
    broken.write_bytes(good.read_bytes()[:500])
    done = acsearch("import", str(broken))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {broken}: not a whole bundle: cut short on its way, or not made by acsearch\n"
    assert acsearch("import", str(good)).stdout == ("study s: 2 finetunes added; go on with: acsearch study resume s\n")
    assert "everything in" in acsearch("import", str(good)).stdout
    out = tmp_path / "again.tar.zst"
    assert acsearch("export", "s", str(out)).stdout.startswith(f"wrote {out}: 2 of 2 finetunes, 0 files")
    assert out.read_bytes() == good.read_bytes()
