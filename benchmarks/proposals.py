"""How long one proposal among a hundred thousand candidates takes, and how much memory.

    python benchmarks/proposals.py

Prints seconds for each policy, the median of three, and the peak of memory in GiB.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from acsearch.config.prior_file import load_prior
from acsearch.law.features import Features
from acsearch.policies.base import State
from acsearch.policies.registry import make_policy

CANDIDATES, BENCHMARKS = 100_000, 8


def main() -> None:
    rng, nobody = np.random.default_rng(0), np.empty(0, dtype=np.intp)
    alignment = rng.random((CANDIDATES, 1)) + 0.02 * rng.standard_normal((CANDIDATES, BENCHMARKS))
    features = Features(np.clip(alignment, 0, 1), rng.random(CANDIDATES))
    rows = np.array([5, 77, 4_000, 99_000])
    weights = np.full(BENCHMARKS, 1 / BENCHMARKS)
    state = State(features, weights, rows, rng.random((4, BENCHMARKS)), nobody, nobody)
    for name in ("ucb", "ei", "kg"):
        policy = make_policy(name, load_prior("weak"))
        policy.propose(state, 0)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            policy.propose(state, 0)
            seconds.append(time.perf_counter() - started)
        print(name, sorted(seconds)[1])
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print("peak", int(peak.split()[1]) / 2**20)  # ru_maxrss would count the process that started this


if __name__ == "__main__":
    main()
