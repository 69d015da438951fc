"""A small world with exact ground truth: scenes, their pictures, captions, questions and keypoints, all from a seed."""

from studies.micro.world.dataset.benchmarks import BENCHMARKS, MicroBenchmark, benchmark
from studies.micro.world.dataset.build import Sizes, build
from studies.micro.world.dataset.labels import LABELS, bounding_box, keypoints, labels
from studies.micro.world.language.captions import captions, describe
from studies.micro.world.language.grammar import vocabulary
from studies.micro.world.language.questions import KINDS, Question, questions
from studies.micro.world.scenes.draw import draw
from studies.micro.world.scenes.scene import WORLD_VERSION, Scene, portrait, scene

__all__ = [
    "BENCHMARKS",
    "KINDS",
    "LABELS",
    "WORLD_VERSION",
    "MicroBenchmark",
    "Question",
    "Scene",
    "Sizes",
    "benchmark",
    "bounding_box",
    "build",
    "captions",
    "describe",
    "draw",
    "keypoints",
    "labels",
    "portrait",
    "questions",
    "scene",
    "vocabulary",
]
