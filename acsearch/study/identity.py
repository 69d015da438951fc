"""What a study was started with, as digests: a table or a prior that has changed since is noticed.

A study is stored in a format, an integer, and stays in it. This acsearch writes format 3 and goes on with format 2,
which differs in nothing but these digests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from acsearch.law.prior import Prior
from acsearch.tables.table import Table

FORMAT = 3
READABLE = (2, FORMAT)


def digest(part: Table | Prior, study_format: int = FORMAT) -> str:
    """Digest of all that a study reads from a table or a prior: its fields, whatever their class is called.

    Args:
        part: a table, or a prior.
        study_format: of the study that the digest is compared with.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    content = _representation(part) if study_format == 2 else json.dumps(_fields(part), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _fields(part: Table | Prior) -> dict[str, object]:
    if isinstance(part, Prior):
        return asdict(part)
    arrays = {"scores": part.scores, "alignment": part.alignment, "correspondence": part.correspondence}
    return {
        "representations": part.representations,
        "metadata": asdict(part.metadata),
        **{name: values.tobytes().hex() for name, values in arrays.items()},
    }


def _representation(part: Table | Prior) -> str:
    """What format 2 was digested from: Python's representation of classes, by the names that they had then."""
    if isinstance(part, Prior):
        return repr(part)
    arrays = (part.scores.tobytes(), part.alignment.tobytes(), part.correspondence.tobytes())
    now = repr((part.representations, part.metadata, *arrays))
    return now.replace("TableMetadata(", "Sheet(").replace("BenchmarkScale(", "Benchmark(")
