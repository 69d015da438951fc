"""What a log says of work that takes long."""

from __future__ import annotations

import queue

import pytest

from trainers.utils.progress import Heartbeat, StepLine, duration


def test_a_line_comes_again_and_again_and_says_how_long_nothing_has_changed() -> None:
    lines: queue.Queue[str] = queue.Queue()
    with Heartbeat(lines.put, "loading", every=0.01) as heartbeat:
        found = [lines.get(timeout=60) for _ in range(3)]
        assert found[-1].startswith("loading (for 0 s")
        heartbeat.update("step 1 of 2")
        while not lines.get(timeout=60).startswith("step 1 of 2"):
            pass
    while not lines.empty():
        lines.get()
    with pytest.raises(queue.Empty):
        lines.get(timeout=0.05)


def test_time_left_is_by_the_pace_since_the_first_step() -> None:
    """A run that was taken up at step 40 does not count the steps that others have made."""
    now = iter([1000.0, 1020.0, 1100.0])
    line = StepLine("connector", clock=lambda: next(now))
    assert line(41, 100, 2.345) == "connector, step 41 of 100, loss 2.35"
    assert line(51, 100, 2.2) == "connector, step 51 of 100, loss 2.20, 2 min left"  # 49 steps of 2 s
    assert line(91, 100, 2.0) == "connector, step 91 of 100, loss 2.00, 18 s left"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (600, "10 min"), (5400, "1.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
