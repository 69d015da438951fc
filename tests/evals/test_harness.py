"""What reaches lmms-eval and what comes back: foreign state left alone, failures told, likelihoods."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from evals import Benchmark, evaluate
from support import ROOT, ghostscript
from support.evaluation import COUNT, GIVEN, Oracle, run, samples, trained_result, write_questions
from trainers.errors import EvaluationError
from trainers.model.generation import prompt_batch, prompt_ids, visuals
from trainers.model.loading import load_model


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


def test_postscript_among_the_images_does_not_reach_ghostscript(
    tmp_path: Path, questions: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, formats = ghostscript.install(tmp_path, monkeypatch), Image.ID.copy()
    rows = pq.read_table(questions["micro_count"]).to_pylist()
    rows[3]["image"] = {"bytes": ghostscript.eps(), "path": "3.png"}
    pq.write_table(pa.Table.from_pylist(rows), questions["micro_count"])
    with pytest.raises(EvaluationError, match="micro_count: .*cannot identify image file"):
        run(Oracle(GIVEN), tmp_path / "out", questions)
    assert not ran.exists()
    assert set(Image.ID) >= set(formats)


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


def test_a_model_chooses_the_reply_that_is_likeliest_word_by_word(tmp_path: Path) -> None:
    """A task that compares log-likelihoods, by a trained model of ours and by hand."""
    model = load_model(trained_result(tmp_path))
    choices = ["red", "a big circle", "blue square"]

    def likeliest(image: Image.Image, question: str) -> str:
        values = []
        for choice in choices:
            ids, value = prompt_ids(model, question, visuals(image)), 0.0
            for word in choice.split():
                batch = prompt_batch(model, [ids], [visuals(image)])
                with torch.no_grad():
                    logits = model.llm(**model.llm_inputs(batch)).logits[0, -1]
                ids = [*ids, model.tokenizer.convert_tokens_to_ids(word)]
                value += float(logits.double().log_softmax(-1)[ids[-1]])
            values.append(value)
        return choices[values.index(max(values))]

    answers = [choices[i % 3] for i in range(12)]
    data = {"micro_count": write_questions(tmp_path / "count.parquet", answers)}
    rows = pq.read_table(data["micro_count"]).to_pylist()
    shown = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    said = [likeliest(image, row["question"]) for image, row in zip(shown, rows, strict=True)]
    choosing = own(
        tmp_path,
        output_type="multiple_choice",
        doc_to_choice=choices,
        generation_kwargs=None,
        process_results=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    ).model_copy(update={"metric": "acc"})
    result = evaluate(model, [choosing], tmp_path / "out", data=data, batch_size=5)
    hits = [choice == answer for choice, answer in zip(said, answers, strict=True)]
    assert [record["acc"] for record in samples(tmp_path / "out")] == hits
    assert result.scores["micro_count"].points == pytest.approx(100 * sum(hits) / 12)
    assert 0 < sum(hits) < 12
