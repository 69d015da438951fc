"""What a stage learns, and what it leaves alone."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import tiny
from support.training_jobs import BOTH, CONNECTOR, LORA, Interrupted, TinyJobs, assert_close, stopping, weights
from trainers.data.batch import Batch
from trainers.errors import CandidateError, DataError
from trainers.model.loading import METRICS, MODEL, load_model
from trainers.model.multimodal import MultimodalModel
from trainers.training import train
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, learning_rate, run_stage


def test_eight_captions_are_learnt_by_heart(jobs: TinyJobs, tmp_path: Path) -> None:
    """Each colour from its picture: the model looks."""
    job = jobs.make(BOTH, samples=8, turns=1, epochs=40, batch=8, micro_batch=8, cache_features=True)
    result = run_stage(job, tmp_path)
    lines = MetricsLog(tmp_path / METRICS_LOG).read()
    assert lines[0].metrics["loss"] > 2.5
    assert lines[-1].metrics["loss"] < 0.05
    model = load_model(result)
    model.template = "plain"
    asked = [(colour, seed) for colour in tiny.COLOURS for seed in (100, 101)]
    answers = model.generate([tiny.picture(*one) for one in asked], [""] * len(asked), 1)
    assert answers == [colour for colour, _ in asked]
    metrics = json.loads((result / METRICS).read_text())
    assert (metrics["step"], metrics["tokens"], metrics["samples"]) == (40, 320, 320)
    assert json.loads((result / MODEL).read_text())["job"] == job.digest


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(jobs: TinyJobs, tmp_path: Path) -> None:
    found = [learning_rate(step, 12, warmup=0.3) for step in range(12)]  # 4 steps of 12
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 8)])
    assert found[8] == pytest.approx(0.5)
    assert learning_rate(0, 1, warmup=0.0) == 1.0
    run_stage(jobs.make(CONNECTOR, warmup=0.3, checkpoint_every=0), tmp_path)
    used = [line.metrics["lr"] for line in MetricsLog(tmp_path / METRICS_LOG).read()]
    assert used == pytest.approx([1e-2 * factor for factor in found])


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_clipped(jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: Any = None) -> Any:
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        norms.append(float(torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt()))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run_stage(jobs.make(BOTH, epochs=1, clip=clip), tmp_path)
    logged = [line.metrics["grad_norm"] for line in MetricsLog(tmp_path / METRICS_LOG).read()]
    assert len(norms) == 6
    assert max(logged) > 0.5
    assert norms == pytest.approx([min(norm, clip) for norm in logged] if clip else logged, rel=1e-3)


def seen_batches(monkeypatch: pytest.MonkeyPatch, change: Callable[[Batch, Any], Any]) -> list[tuple[str, ...]]:
    """What goes through the model from now on. change: of a batch's loss."""
    names: list[tuple[str, ...]] = []
    forward = MultimodalModel.forward

    def spy(self: MultimodalModel, batch: Batch) -> Any:
        names.append(batch.names)
        return change(batch, forward(self, batch))

    monkeypatch.setattr(MultimodalModel, "forward", spy)
    return names


def test_the_longest_batch_comes_first(jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes nothing: the first step is that of a run without it."""
    job = jobs.make(BOTH)
    names = seen_batches(monkeypatch, lambda batch, loss: loss)
    run_stage(job, tmp_path / "first")
    samples, lengths = train.job_samples(job, tmp_path / "first"), {}
    for index, positions in enumerate(samples.positions(4, 100)):
        lengths[samples.name(index)] = int(positions)
    rehearsed, trained = names[0], names[1:]
    areas = [len(batch) * max(lengths[name] for name in batch) for batch in names]
    assert areas[0] == max(areas)
    assert rehearsed in trained
    assert sorted(name for batch in trained for name in batch) == sorted(list(lengths) * 2)
    monkeypatch.setattr(train._Run, "preflight", lambda self: None)
    run_stage(job, tmp_path / "second")
    assert weights(tmp_path / "first" / RESULT) == weights(tmp_path / "second" / RESULT)


def test_out_of_memory_says_what_to_do(jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(batch: Batch, loss: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    seen_batches(monkeypatch, out_of_memory)
    with pytest.raises(CandidateError, match=r"a micro-batch of 2 samples x \d+ positions: lower micro_batch \(the"):
        run_stage(jobs.make(BOTH), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_stage(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the batch, spoils nothing, and the stage may go on from before."""
    expected = run_stage(jobs.make(BOTH), tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        poison = iter([1.0] * 14 + [math.inf] * 99)  # after the rehearsal, 11 micro-batches, and 2 of the next epoch
        seen = seen_batches(patch, lambda batch, loss: loss * next(poison))
        with pytest.raises(CandidateError, match=r"step 8: loss inf, gradient norm (nan|inf); .* The batch: ") as error:
            run_stage(jobs.make(BOTH), tmp_path / "stage")
    said = str(error.value).split("The batch: ")[1].split(", ")
    assert len(said) == 4
    assert set(seen[14]) <= set(said)
    assert not (tmp_path / "stage" / RESULT).exists()
    assert [line.step for line in MetricsLog(tmp_path / "stage" / METRICS_LOG).read()] == list(range(1, 8))
    assert weights(run_stage(jobs.make(BOTH), tmp_path / "stage")) == weights(expected)


def test_bad_data_is_found_before_training(jobs: TinyJobs, tmp_path: Path) -> None:
    shutil.copytree(jobs.folder / "8", tmp_path / "data")
    (tmp_path / "data" / "6.png").write_bytes(b"")
    job = jobs.make(BOTH).model_copy(update={"data": tmp_path / "data" / "turns-2.json"})
    with pytest.raises(DataError, match="1 of 8 samples can't be trained on: sample sample-6: cannot read an image"):
        run_stage(job, tmp_path / "stage")
    assert not (tmp_path / "stage" / METRICS_LOG).exists()


def test_cached_features_train_the_same_model(jobs: TinyJobs, tmp_path: Path) -> None:
    """As do other micro-batches, recomputed activations and loader processes: settings that are not the job's."""
    live = run_stage(jobs.make(BOTH), tmp_path / "live")
    others = [{"cache_features": True}, {"micro_batch": 3, "gradient_checkpointing": True}, {"workers": 2}]
    for number, changes in enumerate(others):
        job = jobs.make(BOTH, **changes)
        assert job.digest == jobs.make(BOTH).digest
        assert_close(run_stage(job, tmp_path / str(number)), live)


@pytest.mark.parametrize("tokens", [None, 120])
def test_packed_samples_train_the_same_model(jobs: TinyJobs, tmp_path: Path, tokens: int | None) -> None:
    """Digest and all: how samples are put together is nothing that the result depends on."""
    padded, packed = jobs.make(BOTH), jobs.make(BOTH, pack=True, tokens_per_pack=tokens)
    assert packed.digest == padded.digest
    assert_close(run_stage(padded, tmp_path / "padded"), run_stage(packed, tmp_path / "packed"))


@pytest.mark.parametrize("recompute", ["auto", "none", "selective", "full"])
def test_what_is_computed_again_changes_nothing(jobs: TinyJobs, tmp_path: Path, recompute: str) -> None:
    plain, changed = jobs.make(BOTH, epochs=1), jobs.make(BOTH, epochs=1, recompute=recompute)
    assert plain.digest == changed.digest
    assert weights(run_stage(plain, tmp_path / "plain")) == weights(run_stage(changed, tmp_path / "changed"))


@pytest.mark.slow
def test_compiled_layers_train_the_same_model(jobs: TinyJobs, tmp_path: Path) -> None:
    plain, compiled = jobs.make(BOTH, epochs=1), jobs.make(BOTH, epochs=1, compile=True)
    assert_close(run_stage(plain, tmp_path / "plain"), run_stage(compiled, tmp_path / "compiled"), 1e-4)


def test_what_a_step_costs_is_in_its_metrics(jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_REPORT_EVERY", 1)
    told = {}
    for name, pack in (("padded", False), ("packed", True)):
        run_stage(jobs.make(BOTH, epochs=1, micro_batch=4, pack=pack), tmp_path / name)
        lines = [line.metrics for line in MetricsLog(tmp_path / name / METRICS_LOG).read()]
        told[name] = [metrics for metrics in lines if "padding_share" in metrics]
    assert 0 < max(metrics["padding_share"] for metrics in told["padded"]) < 1
    assert all(metrics["padding_share"] == 0 for metrics in told["packed"])
    assert told["padded"][-1]["checkpoint_seconds"] > 0
    assert all(metrics["tflops"] > 0 for metrics in told["padded"])


def test_packed_and_interrupted_it_is_the_same_to_the_bit(jobs: TinyJobs, tmp_path: Path) -> None:
    job = jobs.make(BOTH, pack=True)
    with pytest.raises(Interrupted):
        run_stage(job, tmp_path / "two", stopping(5))
    assert weights(run_stage(job, tmp_path / "two")) == weights(run_stage(job, tmp_path / "one"))


def test_precision_is_the_stages_whatever_ran_before(jobs: TinyJobs, tmp_path: Path) -> None:
    coarse = run_stage(jobs.make(CONNECTOR, epochs=1, precision="bf16"), tmp_path / "bf16")
    fine = run_stage(jobs.make(CONNECTOR, epochs=1, precision="fp32"), tmp_path / "fp32")
    auto = run_stage(jobs.make(CONNECTOR, epochs=1), tmp_path / "auto")
    assert (weights(auto) == weights(fine)) != torch.cuda.is_available()
    assert weights(fine) != weights(coarse)
    assert_close(coarse, fine, tolerance=0.1)


def test_the_global_generators_and_the_terminal_are_left_alone(
    jobs: TinyJobs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run_stage(jobs.make(LORA, llm="dropping"), tmp_path)
        load_model(result).generate([tiny.picture("red", 0)], ["what is it ?"], 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert [str(one.message) for one in caught if "trainers" in one.filename or "transformers" in one.filename] == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_rows_that_are_left_out_are_named_in_the_result(jobs: TinyJobs, tmp_path: Path) -> None:
    job = jobs.make(CONNECTOR, on_bad_sample="drop", max_dropped=0.2)
    rows = json.loads(job.data.read_text())
    rows[3]["conversations"] = rows[3]["conversations"][:1]  # a question without an answer
    (job.data.parent / "odd.json").write_text(json.dumps(rows))
    odd = job.model_copy(update={"data": job.data.parent / "odd.json"})
    result = run_stage(odd, tmp_path / "stage")
    metrics = json.loads((result / METRICS).read_text())
    assert (metrics["samples"], metrics["dropped"]) == (40, ["sample-3"])
    first = MetricsLog(result / METRICS_LOG).read()[0].metrics
    assert (first["dropped_samples"], first["samples_without_supervision"]) == (1, 0)
    with pytest.raises(DataError, match=r"1 of 21 samples can't be trained on: sample sample-3: no supervised token"):
        run_stage(jobs.make(CONNECTOR).model_copy(update={"data": odd.data}), tmp_path / "strict")
    assert odd.digest != jobs.make(CONNECTOR).digest
