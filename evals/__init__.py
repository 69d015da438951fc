"""Evaluation of trained models with lmms-eval: benchmarks as data, one call that scores a model on them.

Nothing here imports lmms-eval (eight seconds) before something is evaluated.
"""

import trainers  # noqa: F401  installs the torchvision guard before anything imports torchvision
from evals.benchmarks import Benchmark, benchmark, load_benchmarks
from evals.results import BenchmarkScore, Evaluation
from evals.runner import evaluate

__all__ = ["Benchmark", "BenchmarkScore", "Evaluation", "benchmark", "evaluate", "load_benchmarks"]
