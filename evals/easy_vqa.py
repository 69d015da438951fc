"""easy-VQA as a benchmark: the images and questions of the PyPI package `easy-vqa` (MIT), as our parquet.

    python -m evals.easy_vqa FOLDER

1,000 test images of 64 pixels with one shape each, and 9,673 questions about it, most of them yes or no.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainers.errors import EvaluationError
from trainers.utils.atomic import atomic_write


def write(folder: Path, samples: int | None = None) -> Path:
    """Write `easy_vqa.parquet` with the columns id, image {bytes, path}, question, answer and image_id.

    Args:
        folder: where the file is written.
        samples: how many of the test questions; all where it is not given.

    Returns:
        The file's path.

    Raises:
        EvaluationError: the package `easy-vqa` is not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    questions, answers, images = _package().get_test_questions()
    paths = _package().get_test_image_paths()
    rows = [
        {
            "id": f"easy_vqa-{number:05d}",
            "image": {"bytes": Path(paths[image]).read_bytes(), "path": f"{image}.png"},
            "question": question,
            "answer": answer,
            "image_id": str(image),
        }
        for number, (question, answer, image) in enumerate(zip(questions, answers, images, strict=True))
        if samples is None or number < samples
    ]
    path = folder / "easy_vqa.parquet"
    with atomic_write(path) as fresh:
        pq.write_table(pa.Table.from_pylist(rows), fresh)
    return path


def floor() -> float:
    """Percent of the test questions that a model answers which learnt the training questions without images."""
    train, test = _package().get_train_questions(), _package().get_test_questions()
    return blind_accuracy(zip(train[0], train[1], strict=True), list(zip(test[0], test[1], strict=True)))


def blind_accuracy(train: Iterable[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    """Percent of test questions whose answer is the commonest one to that question in training.

    A question that training does not have gets the commonest answer of all. Ties go to the answer seen first.

    Args:
        train: (question, answer) pairs.
        test: (question, answer) pairs.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for question, answer in train:
        by_question[question][answer] += 1
        overall[answer] += 1
    right = sum(by_question.get(question, overall).most_common(1)[0][0] == answer for question, answer in test)
    return 100 * right / len(test)


def _package() -> Any:
    try:
        import easy_vqa
    except ModuleNotFoundError as error:
        raise EvaluationError("easy-VQA is not installed; pip install easy-vqa") from error
    return easy_vqa


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m evals.easy_vqa FOLDER")
    print(write(Path(sys.argv[1])))
