"""The evaluation of a committed result, as a file that ranks read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evals.benchmarks import Benchmark
from trainers.checkpoints.commit import MANIFEST, parse_manifest
from trainers.errors import EvaluationError
from trainers.job import Shared
from trainers.model.loading import MODEL, WEIGHTS
from trainers.model.precision import Precision
from trainers.utils.parsing import parse_json
from trainers.utils.regular_files import read_text
from trainers.utils.strict_yaml import StrictModel


class EvaluationRequest(StrictModel):
    """What is evaluated, and how.

    Attributes:
        checkpoint: a stage's committed result.
        precision: in which its model computes.
        benchmarks: to be scored.
        batch_size: how many questions are asked at a time.
        limit: how many rows of each benchmark to ask; all where it is None.
        cache: folder of the answers of all models; None to keep none.
        data: local data by name of the benchmark.
        store: the work store that shares the work folder.
    """

    checkpoint: Path
    precision: Precision
    benchmarks: tuple[Benchmark, ...]
    batch_size: int = 32
    limit: int | None = None
    cache: Path | None = None
    data: dict[str, Path] = {}
    store: Shared | None = None

    @property
    def identity(self) -> str:
        """SHA-256 of what stands for the model, without a look at its weights, which a committed result has digests of.

        The digest of the job covers what pretrained parts hold, the connector and the template; the rest is what was
        trained, and the precision.

        Raises:
            EvaluationError: the checkpoint is not a stage's committed result.
        """
        try:
            weights = parse_manifest((self.checkpoint / MANIFEST).read_bytes())[WEIGHTS]
            job = parse_json(read_text(self.checkpoint / MODEL))["job"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.checkpoint}: not a stage's committed result: {error}") from error
        return hashlib.sha256(json.dumps([job, weights, self.precision]).encode()).hexdigest()


def read_request(path: Path) -> EvaluationRequest:
    """Read a request that was written as JSON.

    Raises:
        EvaluationError: the file cannot be read, or is not a request.
    """
    try:
        return EvaluationRequest.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: not an evaluation request: {error}") from error
