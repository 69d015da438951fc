"""Scores of a candidate before it is finetuned: features or a stage-1 model in, one number out.

Scores of different definitions are different things and never share a fit: each has an id, and a version that is raised
when the same input would no longer give the same number. `SCORES` lists them; a new score is one more row.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class ScoreDefinition:
    """What a score is.

    law: the axis of the AC law it may stand on, alignment or correspondence.  needs: features of the vision
    representation alone, or a model whose connector was trained (stage 1).
    """

    definition: str
    version: int
    law: Literal["A", "C"]
    needs: Literal["features", "stage1"]
    unit: str
    summary: str

    @property
    def id(self) -> str:
        """Definition and version: what a stored value is labelled with."""
        return f"{self.definition}/{self.version}"


SCORES = MappingProxyType(
    {
        score.definition: score
        for score in (
            ScoreDefinition(
                "C", 1, "C", "features", "percent", "per-image PCK@0.10 on what the connector receives, letterboxed"
            ),
            ScoreDefinition(
                "C_compat", 1, "C", "features", "percent", "per-image PCK@0.10 as the AC law's authors compute it"
            ),
            ScoreDefinition("A_ll", 1, "A", "stage1", "nats per token", "log-likelihood of held-out captions"),
            ScoreDefinition(
                "A_ll_train", 1, "A", "stage1", "nats per token", "log-likelihood of captions of the training data"
            ),
            ScoreDefinition(
                "A_cos", 1, "A", "stage1", "cosine", "similarity of projected tokens to those of reference models"
            ),
        )
    }
)
