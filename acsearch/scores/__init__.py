"""Scores of a candidate before it is finetuned: computed from its features, or from a stage-1 model.

Scores of different definitions measure different things and are never used in one fit. Each definition has a version,
which is raised when the same input would no longer give the same number. `SCORES` lists them; a new score is one more
row.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class ScoreDefinition:
    """The definition of a score.

    Attributes:
        definition: Its name, such as `C_compat`.
        version: Raised when the same input no longer gives the same number.
        law: The variable of the AC law that it measures: alignment A or correspondence C.
        needs: What it is computed from: features of the vision representation, or a model after stage 1.
        unit: Unit of the number.
        summary: One line for tables and help.
    """

    definition: str
    version: int
    law: Literal["A", "C"]
    needs: Literal["features", "stage1"]
    unit: str
    summary: str

    @property
    def id(self) -> str:
        """Definition and version, such as `C/1`; stored values are labelled with it."""
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
