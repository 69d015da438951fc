"""The metrics of a stage are read back, and what is no entry is left out."""

from __future__ import annotations

from pathlib import Path

from trainers.training.metrics_log import MetricsLog


def test_lines_that_are_no_entries_are_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "log")
    log.write(1, {"loss": 0.5})
    strange = [
        "",
        "{",
        "[]",
        "1",
        '{"step": "x", "time": 1.0, "metrics": {}}',
        '{"step": 2, "time": 1.0}',
        "[" * 100_000,
    ]
    strange += ['{"step": 2, "time": 1.0, "metrics": {"loss": "low"}}', '{"step": 2, "time": 1.0, "metrics": [1]}']
    with log.path.open("a") as file:
        file.writelines(f"{line}\n" for line in strange)
    log.write(3, {"loss": float("nan")})
    assert [entry.step for entry in log.read()] == [1, 3]
    log.cut(1)
    assert [entry.metrics for entry in log.read()] == [{"loss": 0.5}]
