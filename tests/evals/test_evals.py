"""Evaluation through lmms-eval: scores and errors that are known, whatever the batches, ranks and interruptions."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from acsearch.config.table_file import load_table
from evals import Benchmark, BenchmarkScore, Evaluation, benchmark, evaluate, load_benchmarks
from evals.response_cache import Answers
from evals.standard_error import Unit, estimate
from studies.micro import world
from support import ROOT, tiny
from trainers.checkpoints.commit import commit_folder
from trainers.errors import ConfigError, EvaluationError
from trainers.job import Parts, Tune
from trainers.model import loading as build

LAW = {benchmark.name: benchmark for benchmark in load_benchmarks("law")}


class Oracle:
    """Answers by the shade of red of the image's first pixel; counts what it was asked."""

    device = "cpu"

    def __init__(self, answers: Sequence[str], fingerprint: str = "oracle") -> None:
        self.answers, self.fingerprint = answers, fingerprint
        self.batches: list[int] = []
        self.prompts: list[str] = []
        self.longest: set[int] = set()

    def generate(self, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        print("models print too")
        self.batches.append(len(prompts))
        self.prompts += prompts
        self.longest.add(max_new_tokens)
        return [self.answers[image.getpixel((0, 0))[0] if image else 0] for image in images]


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, 0, 0))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, format="PNG")
    return buffer.getvalue()


def write_questions(path: Path, answers: Sequence[str]) -> Path:
    """Questions of increasing length; the right answer to the i-th, about an image of shade i, is answers[i]."""
    rows = [
        {
            "id": f"q{i}",
            "image": {"bytes": png(i), "path": f"{i}.png"},
            "question": f"what is it{' really' * (i % 3)}?",
            "answer": answer,
        }
        for i, answer in enumerate(answers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data that lmms-eval prepares stays in the test's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


RIGHT = ["yes", "no", "two", "red", "left", "jam", "yes"]
GIVEN = ["Yes.", "no", "three", " red\nand blue", "right", "jam", "YES"]  # five of seven


@pytest.fixture
def questions(tmp_path: Path) -> dict[str, Path]:
    return {"micro_count": write_questions(tmp_path / "count.parquet", RIGHT)}


COUNT = load_benchmarks("micro", ["micro_count"])


# -- benchmarks as data ------------------------------------------------------------------------------------------------


def test_the_papers_benchmarks_have_the_scales_of_its_table() -> None:
    sheet = load_table("law_v1").metadata
    ours = {name: (benchmark.floor, benchmark.ceiling) for name, benchmark in LAW.items()}
    assert ours == {scale.name: (scale.floor, scale.ceiling) for scale in sheet.benchmarks}


def test_the_micro_benchmarks_have_the_worlds_floors() -> None:
    ours = {one.name: (one.floor, one.ceiling) for one in load_benchmarks("micro")}
    assert ours == {one.name: (one.floor, one.ceiling) for one in world.BENCHMARKS.values()}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"flor": 1}, "unknown key 'flor'; did you mean 'floor'"),
        ({"floor": 100}, "floor 100 must be below ceiling 100"),
        ({"definition": "nowhere.yaml"}, "the definition nowhere.yaml does not exist"),
        ({"units": "guess"}, "units: Input should be"),
    ],
)
def test_a_benchmark_that_cannot_be_used_says_why(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    (tmp_path / "task.yaml").write_text("output_type: generate_until\n")
    good = {"task": "t", "definition": "task.yaml", "metric": "m", "floor": 0, "ceiling": 100}
    file.write_text(yaml.safe_dump({"own": {"one": good | entry}}))
    with pytest.raises(ConfigError, match=r"own\.one") as error:
        load_benchmarks("own", file=file)
    assert message in str(error.value)


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'seed_image'"):
        load_benchmarks("law", ["seed_imag"])


def test_benchmarks_are_found_by_name_alone() -> None:
    every = [one for which in ("law", "micro", "easy_vqa") for one in load_benchmarks(which)]
    assert [benchmark(one.name) for one in every] == every
    with pytest.raises(ConfigError, match="did you mean 'micro_part'"):
        benchmark("micro_parts")


def test_importing_evals_does_not_import_lmms_eval() -> None:
    code = "import sys, evals; sys.exit('lmms_eval' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- standard errors ---------------------------------------------------------------------------------------------------


def test_the_error_of_independent_samples_is_their_deviation_over_root_n() -> None:
    values = np.random.default_rng(0).random(50)
    score, error = estimate([Unit(value, str(i)) for i, value in enumerate(values)])
    assert score == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_copies_of_a_sample_in_one_cluster_add_nothing() -> None:
    values = np.random.default_rng(1).random(30)
    once = estimate([Unit(value, str(i)) for i, value in enumerate(values)])
    thrice = estimate([Unit(value, str(i)) for i, value in enumerate(values) for _ in range(3)])
    assert thrice == pytest.approx(once)


def test_strata_are_summed_and_so_are_their_variances() -> None:
    first, second = [Unit(v, str(i), "a") for i, v in enumerate([0, 1, 1])], [Unit(v, str(v), "b") for v in (0, 4)]
    score, error = estimate(first + second)
    alone = estimate(first), estimate(second)
    assert score == pytest.approx(alone[0][0] + alone[1][0])
    assert error == pytest.approx(math.hypot(alone[0][1] or 0, alone[1][1] or 0))


def test_one_cluster_has_no_error() -> None:
    assert estimate([Unit(1.0, "a"), Unit(0.0, "a")]) == (0.5, None)


# -- a local task ------------------------------------------------------------------------------------------------------


def run(model: Any, folder: Path, data: dict[str, Path], **options: Any) -> Evaluation:
    return evaluate(model, COUNT, folder, data=data, **options)


def samples(folder: Path, name: str = "micro_count") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples" / f"{name}.jsonl").read_text().splitlines()]


def test_score_error_and_samples(tmp_path: Path, questions: dict[str, Path]) -> None:
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions)
    hits = [1, 1, 0, 1, 0, 1, 1]
    error = 100 * np.std(hits, ddof=1) / math.sqrt(7)
    assert result.scores == {"micro_count": BenchmarkScore(pytest.approx(500 / 7), pytest.approx(error), 7)}
    records = samples(tmp_path / "out")
    assert [record["doc_id"] for record in records] == list(range(7))
    assert [record["accuracy"] for record in records] == hits
    assert [record["target"] for record in records] == RIGHT
    assert records[3] | {"doc": None} == {
        "doc_id": 3,
        "prompt": "what is it?",
        "answer": "red",  # cut at the line's end
        "target": "red",
        "accuracy": 1.0,
        "doc": None,
    }
    assert model.longest == {16}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter(batch_size: int, tmp_path: Path, questions: dict[str, Path]) -> None:
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions, batch_size=batch_size)
    assert result.scores["micro_count"].points == pytest.approx(500 / 7)
    assert max(model.batches) <= batch_size
    assert sum(model.batches) == 7
    assert [record["accuracy"] for record in samples(tmp_path / "out")] == [1, 1, 0, 1, 0, 1, 1]


def test_an_evaluation_is_not_run_again(tmp_path: Path, questions: dict[str, Path]) -> None:
    first = run(Oracle(GIVEN), tmp_path / "out", questions)
    again = Oracle(GIVEN)
    second = run(again, tmp_path / "out", questions)
    assert second.scores == first.scores
    assert again.batches == []
    assert second.seconds > json.loads((tmp_path / "out/results/micro_count.json").read_text())["seconds"]


@pytest.mark.parametrize("change", ["model", "data", "limit", "samples"])
def test_another_evaluation_is(change: str, tmp_path: Path, questions: dict[str, Path]) -> None:
    run(Oracle(GIVEN), tmp_path / "out", questions)
    model = Oracle(RIGHT, fingerprint="better" if change == "model" else "oracle")
    if change == "data":
        write_questions(questions["micro_count"], [*RIGHT[:-1], "ice"])
    if change == "samples":
        (tmp_path / "out/samples/micro_count.jsonl").unlink()
    result = run(model, tmp_path / "out", questions, limit=4 if change == "limit" else None)
    assert sum(model.batches) == (4 if change == "limit" else 7)
    assert result.scores["micro_count"].points == pytest.approx(600 / 7 if change == "data" else 100)


def test_an_interrupted_evaluation_takes_up_after_its_last_batch(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Preempted(BaseException):
        pass

    def stop(_: str, done: int, __: int) -> None:
        if done >= 4:
            raise Preempted

    with pytest.raises(Preempted):
        run(Oracle(GIVEN), tmp_path / "out", questions, batch_size=2, cache=tmp_path / "cache", progress=stop)
    assert not (tmp_path / "out/results").exists()
    (cached,) = (tmp_path / "cache").glob("*/rank0.jsonl")
    cached.write_bytes(cached.read_bytes()[:-10])  # and the last line is torn
    model = Oracle(GIVEN)
    result = run(model, tmp_path / "out", questions, batch_size=2, cache=tmp_path / "cache")
    assert sum(model.batches) == 7 - 3
    assert result.scores["micro_count"].points == pytest.approx(500 / 7)
    assert len(Answers(tmp_path / "cache", "oracle")._known) == 7


def test_the_cache_knows_weights_and_pixels(tmp_path: Path, questions: dict[str, Path]) -> None:
    cache = tmp_path / "cache"
    run(Oracle(GIVEN), tmp_path / "a", questions, cache=cache)
    same, other = Oracle(GIVEN), Oracle(RIGHT, fingerprint="other")
    assert run(same, tmp_path / "b", questions, cache=cache).scores["micro_count"].points == pytest.approx(500 / 7)
    assert run(other, tmp_path / "c", questions, cache=cache).scores["micro_count"].points == 100
    assert (sum(same.batches), sum(other.batches)) == (0, 7)
    write_questions(questions["micro_count"], ["no", *RIGHT])  # the old prompts about other pictures
    assert run(Oracle([*GIVEN, "?"]), tmp_path / "d", questions, cache=cache).scores["micro_count"].samples == 8


def test_the_process_is_left_as_it_was(
    tmp_path: Path, questions: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    run(Oracle(GIVEN), tmp_path / "out", questions, progress=lambda *told: print("told", *told))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("told micro_count 7 7\n", "")
    assert "models print too" in (tmp_path / "out/eval.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count.parquet", "out"]


def test_a_module_survives_the_harness(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Network(torch.nn.Linear):
        fingerprint, device = "network", torch.device("cpu")

        def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            return ["yes" if self.weight is not None else "" for _ in prompts]

    model = Network(2, 2)
    run(model, tmp_path / "a", questions)
    assert run(model, tmp_path / "b", questions).scores["micro_count"].points == pytest.approx(200 / 7)


def test_an_untrained_models_marks_are_stripped(tmp_path: Path, questions: dict[str, Path]) -> None:
    run(Oracle(["\x00y\x0be\ud800s\x1f"] * 7), tmp_path / "out", questions)
    assert samples(tmp_path / "out")[0]["answer"] == "yes"


def own(tmp_path: Path, **config: Any) -> Benchmark:
    """A benchmark of one's own: the template with some keys of its definition changed."""
    template = ROOT / "evals/tasks/question_answering.yaml"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"include": str(template), **config}))
    return COUNT[0].model_copy(update={"definition": tmp_path / "own.yaml"})


def test_failures_are_one_sentence_that_names_the_benchmark(tmp_path: Path, questions: dict[str, Path]) -> None:
    def failing(benchmark: Benchmark, data: dict[str, Path], model: Any = None) -> str:
        with pytest.raises(EvaluationError) as error:
            evaluate(model or Oracle(GIVEN), [benchmark], tmp_path / "out", data=data)
        return str(error.value)

    count, gone = COUNT[0], {"micro_count": tmp_path / "gone.parquet"}
    assert failing(count, gone) == f"micro_count: its data {tmp_path}/gone.parquet does not exist"
    assert "has no data of its own; give the path of its parquet file" in failing(count, {})
    assert failing(count, {"mme": tmp_path}) == "data is given for 'mme', which is no benchmark of this evaluation"
    metric = count.model_copy(update={"metric": "acuracy"})
    assert failing(metric, questions) == "micro_count: micro_count has no metric 'acuracy'; it has accuracy"
    cluster = count.model_copy(update={"cluster": "image_id"})
    assert "has no column 'image_id'; it has id, image, question, answer" in failing(cluster, questions)
    sampling = own(tmp_path, generation_kwargs={"temperature": 0.7, "until": ["\n"]})
    assert "wants sampling or beams" in failing(sampling, questions)
    choosing = own(tmp_path, output_type="multiple_choice", doc_to_choice=["yes", "no"], generation_kwargs=None)
    assert "compares log-likelihoods, which Oracle does not give" in failing(choosing, questions)
    torn = {"micro_count": tmp_path / "torn.parquet"}
    torn["micro_count"].write_bytes(questions["micro_count"].read_bytes()[:-100])
    assert failing(count, torn).startswith("micro_count: lmms-eval failed: ")
    assert "IndexError" in failing(count, questions, Oracle([]))


def test_likelihoods_choose_the_likeliest(tmp_path: Path, questions: dict[str, Path]) -> None:
    class Likelihoods(Oracle):
        def log_likelihood(
            self, images: Sequence[Any], prompts: Sequence[str], continuations: Sequence[str]
        ) -> list[tuple[float, bool]]:
            return [(-1.0, True) if text.strip() == "yes" else (-2.0, False) for text in continuations]

    choosing = own(
        tmp_path,
        output_type="multiple_choice",
        doc_to_choice=["yes", "no", "other"],
        generation_kwargs=None,
        process_results=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    ).model_copy(update={"metric": "acc"})
    result = evaluate(Likelihoods([]), [choosing], tmp_path / "out", data=questions)
    assert result.scores["micro_count"].points == pytest.approx(200 / 7)


# -- the paper's benchmarks, on a few synthetic rows -------------------------------------------------------------------

LETTERS = ("A", "B", "C", "D")


def rows(name: str) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Split, rows and right answers of a small copy of a benchmark; row i shows an image of shade i."""
    ten = [["cat"] * 10, ["dog"] * 10, ["red"] * 2 + ["pink"] * 8, ["two"] * 10]
    vqa = [{"question_id": str(i), "question": "what?", "answers": ten[i], "image_id": str(i % 3)} for i in range(4)]
    match name:
        case "mmbench_en":  # two questions, each in two rotations
            made = [
                {"index": index, "question": "q", "hint": "nan", "source": "s", "split": "dev", "comment": ""}
                | {"category": "c", "L2-category": "l", "answer": answer}
                | dict(zip(LETTERS, ("cat", "dog", "fox", "yak"), strict=True))
                for index, answer in ((3, "A"), (7, "B"), (1_000_003, "C"), (1_000_007, "D"))
            ]
            return "dev", made, ["A", "B", "C.", "D"]
        case "mme":  # a pair in each of two subtasks of perception, and one of cognition
            categories = ["existence"] * 2 + ["OCR"] * 2 + ["code_reasoning"] * 2
            made = [
                {
                    "question_id": f"{i // 2}.png",
                    "question": f"is it {i}? Please answer yes or no.",
                    "category": category,
                }
                | {"answer": ("Yes", "No")[i % 2]}
                for i, category in enumerate(categories)
            ]
            return "test", made, ["Yes", "No"] * 3
        case "mmmu_val":
            made = [
                {"id": f"validation_{subject}_{i}", "question": "see <image 1>", "options": "['x', 'y', 'z', 'w']"}
                | {"question_type": "multiple-choice", "answer": "ABCD"[i], "image_2": None}
                for i, subject in enumerate(["Art", "Art", "Physics", "Physics"])
            ]
            made[1] |= {"question": "see <image 1> and <image 2>", "image_2": {"bytes": png(9), "path": None}}
            made[3] |= {"question_type": "open", "options": "[]", "answer": "seven"}
            return "validation", made, ["A", "B", "(C)", "seven"]
        case "scienceqa_img":
            made = [{"question": "q", "hint": "", "choices": ["x", "y"], "answer": i % 2} for i in range(4)]
            return "test", made, ["A", "B", "A. x", "B"]
        case "seed_image":
            made = [
                {"question_id": str(i), "question": "q", "answer": LETTERS[i], "data_id": str(i), "data_type": "image"}
                | {f"choice_{letter.lower()}": letter for letter in LETTERS}
                for i in range(4)
            ]
            return "test", [*made, made[0] | {"data_type": "video"}], [*LETTERS, "A"]
        case "ok_vqa":
            return "val2014", vqa, ["cat", "a dog", "red", "2"]
        case "textvqa_val":
            return "validation", vqa, ["cat", "dog", "red", "two"]
        case _:
            return "val", vqa, ["cat", "dog", "red", "two"]


def save(name: str, folder: Path) -> Path:
    """The small copy as a `DatasetDict` on disk."""
    import datasets

    split, made, _ = rows(name)
    shown: list[Any] = [{"bytes": png(i), "path": None} for i in range(len(made))]
    if name == "seed_image":
        shown = [[image] * (1 if row["data_type"] == "image" else 8) for image, row in zip(shown, made, strict=True)]
    column = "image_1" if name == "mmmu_val" else "image"
    table = datasets.Dataset.from_list([row | {column: image} for row, image in zip(made, shown, strict=True)])
    for image_column in {"image", "image_1", "image_2"} & set(table.column_names):
        decoded = datasets.Image() if name != "seed_image" else datasets.List(datasets.Image())
        table = table.cast_column(image_column, decoded)
    datasets.DatasetDict({split: table}).save_to_disk(str(folder))
    return folder


FULL_MARKS = {"mme": 400.0, "ok_vqa": 100 * (3 + 0.6) / 4, "textvqa_val": 90.0, "vizwiz_vqa_val": 90.0}


@pytest.mark.parametrize("name", LAW)
def test_a_benchmark_of_the_paper(name: str, tmp_path: Path) -> None:
    """Known scores for who is right, who is wrong, and who is right on the first half; on the scale of the paper."""
    data = {name: save(name, tmp_path / "data")}
    _, _, right = rows(name)
    kept = 4
    half = [*right[:2], *["wrong"] * (len(right) - 2)]
    got = {
        kind: evaluate(Oracle(answers, kind), [LAW[name]], tmp_path / kind, data=data).scores[name]
        for kind, answers in {"right": right, "wrong": ["wrong"] * len(right), "half": half}.items()
    }
    full = FULL_MARKS.get(name, 100.0)
    assert got["right"].points == pytest.approx(full, abs=0.001)
    assert {score.samples for score in got.values()} == {kept}
    if name == "mmmu_val":  # an answer that cannot be read is replaced by a guess, the same every time
        again = evaluate(Oracle(["wrong"] * 4, "wrong again"), [LAW[name]], tmp_path / "again", data=data).scores[name]
        assert again == got["wrong"]
        return
    assert got["wrong"].points == 0
    # both rotations have to be right; one of MME's two subtasks is; else two of four samples
    assert got["half"].points == pytest.approx({"mmbench_en": 0.0, "mme": 200.0}.get(name, 50.0))
    if name in ("ok_vqa", "vizwiz_vqa_val", "scienceqa_img", "seed_image"):
        assert got["half"].standard_error == pytest.approx(100 * math.sqrt(1 / 3) / 2)
    if name == "textvqa_val":  # rows 0 and 3 are about one image: residuals 0, 0.5, -0.5
        assert got["half"].standard_error == pytest.approx(100 * math.sqrt(1.5 * 0.5) / 4)


def test_a_limit_keeps_what_is_scored_together(tmp_path: Path) -> None:
    data = {"mme": save("mme", tmp_path / "data")}
    result = evaluate(Oracle(["Yes"] * 6), [LAW["mme"]], tmp_path / "out", data=data, limit=1)
    assert result.scores["mme"] == BenchmarkScore(50.0, None, 2)


def test_several_images_are_an_error_unless_the_first_is_asked_for(tmp_path: Path) -> None:
    data = {"mmmu_val": save("mmmu_val", tmp_path / "data")}
    one = LAW["mmmu_val"].model_copy(update={"images": "one"})
    with pytest.raises(EvaluationError, match="mmmu_val: shows 2 images at once and the model takes one"):
        evaluate(Oracle([]), [one], tmp_path / "out", data=data, batch_size=1)


# -- real pictures, ranks, command line --------------------------------------------------------------------------------


def test_easy_vqa(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="needs the package easy-vqa, of the extra dev")
    from evals import easy_vqa

    (benchmark,) = load_benchmarks("easy_vqa")
    data = {"easy_vqa": easy_vqa.write(tmp_path, samples=50)}
    model = Oracle(["yes"] * 256)
    score = evaluate(model, [benchmark], tmp_path / "out", data=data).scores["easy_vqa"]
    _, answers, images = pytest.importorskip("easy_vqa").get_test_questions()
    assert (score.points, score.samples) == (2 * answers[:50].count("yes"), 50)
    shown = [int(record["doc"]["image_id"]) for record in samples(tmp_path / "out", "easy_vqa")]
    assert shown == images[:50]  # several questions about each
    assert easy_vqa.floor() == pytest.approx(benchmark.floor, abs=0.05)


class Guesser(Oracle):
    """Its answers to MMMU have no letter in them."""

    def generate(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        given = super().generate(images, prompts, max_new_tokens)
        return ["hm" if "see <image" in prompt else text for prompt, text in zip(prompts, given, strict=True)]


RANK = """
import dataclasses, json, os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_evals import COUNT, GIVEN, LAW, Guesser
from evals import evaluate
folder, data = Path(sys.argv[2]), {"micro_count": Path(sys.argv[3]), "mmmu_val": Path(sys.argv[4])}
result = evaluate(Guesser(GIVEN), [*COUNT, LAW["mmmu_val"]], folder, data=data)
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(dataclasses.asdict(result)["scores"]))
"""


def test_two_ranks_score_what_one_scores(tmp_path: Path, questions: dict[str, Path]) -> None:
    """Samples, scores and errors, with seven samples (a rank is padded) and MMMU's guesses; both ranks know all."""
    script, two = tmp_path / "rank.py", tmp_path / "two"
    script.write_text(RANK)
    data = {**questions, "mmmu_val": save("mmmu_val", tmp_path / "mmmu")}
    one = evaluate(Guesser(GIVEN), [*COUNT, LAW["mmmu_val"]], tmp_path / "one", data=data)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [ROOT / "tests/evals", two, data["micro_count"], data["mmmu_val"]]
    done = subprocess.run(
        [*launch, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((two / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks == [json.loads(json.dumps({name: asdict(score) for name, score in one.scores.items()}))] * 2
    for name in data:
        assert samples(two, name) == samples(tmp_path / "one", name)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The result of a finetune, as the trainer commits it, of tiny random parts."""
    parts = Parts(
        representation="clip@32",
        llm=str(tiny.llm(tmp_path / "llm")),
        template="chat",
        encoders=(tiny.encoders(tmp_path),),
    )
    tuned = {part: Tune(mode="full", lr=0.001) for part in ("connector", "llm")}
    model = build.build_model(parts)
    model.tune(tuned, seed=0)
    with commit_folder(tmp_path / "result") as folder:
        save_file({name: weight.detach() + 0.01 for name, weight in model.trainable().items()}, folder / build.WEIGHTS)
        about = {
            "parts": parts.model_dump(mode="json"),
            "train": {part: one.model_dump() for part, one in tuned.items()},
        }
        (folder / build.MODEL).write_text(json.dumps(about))
    return tmp_path / "result"


def test_the_command_line_scores_the_same(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trained checkpoint by its registered name, as the same model scores in memory."""
    from evals.command import lmms_eval
    from evals.definition import export_task

    model = build.load_model(checkpoint)
    data = {"micro_count": write_questions(tmp_path / "count.parquet", ["no"] * 7)}
    run(model, tmp_path / "first", data)
    said = [record["answer"] for record in samples(tmp_path / "first")]
    assert all(said)
    write_questions(data["micro_count"], [*said[:4], "no", "no", "no"])
    inside = run(model, tmp_path / "inside", data).scores["micro_count"]
    assert inside.points == pytest.approx(400 / 7)
    task = export_task(COUNT[0], data["micro_count"], tmp_path / "tasks")

    def command(tasks: str, model_args: str = f"checkpoint={checkpoint}") -> None:
        where = ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
        what = ["--model", "acsearch", "--model_args", model_args, "--tasks", tasks, "--batch_size", "2"]
        lmms_eval(["eval", *what, *where, "--log_samples"])

    only_these(monkeypatch, tmp_path / "tasks")
    command(task)
    (results,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(results.read_text())["results"][task]
    assert 100 * scores["accuracy,none"] == pytest.approx(inside.points)
    assert 100 * scores["accuracy_stderr_clt,none"] == pytest.approx(inside.standard_error)
    with pytest.raises(EvaluationError, match="Tasks not found: nonesuch"):
        command("nonesuch")
    with pytest.raises(EvaluationError, match="no argument 'chekpoint'"):
        command(task, "chekpoint=/x")
    with pytest.raises(EvaluationError, match="/nowhere"):
        command(task, "checkpoint=/nowhere")
    assert "Traceback" not in capsys.readouterr().err


def only_these(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Without lmms-eval's own 1,711 tasks, which take seven seconds to list."""
    import lmms_eval.__main__ as program
    from lmms_eval.tasks import TaskManager

    def manager(*_: Any, model_name: str, **__: Any) -> TaskManager:
        return TaskManager("ERROR", include_path=str(folder), include_defaults=False, model_name=model_name)

    monkeypatch.setattr(program, "TaskManager", manager)


def test_the_model_is_registered_under_its_name() -> None:
    from evals.plugin import manifest

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"acsearch": "evals.plugin:manifest"}
    assert manifest().model_id == "acsearch"
