"""The policy of the paper: region sampling and the quadratic predictor, as the authors run them."""

from __future__ import annotations

import numpy as np

from acsearch.law.features import FULL, WITHOUT_C, Features, Index
from acsearch.law.least_squares import PublishedLaw
from acsearch.policies.base import State


class PublishedPolicy:
    """Region sampling over the plane of A and C, with a ranking by the minimum-norm fit of the published law.

    The unit square of A and C is split into 2^j x 2^j cells, j = 1, 2, ...; cells without a candidate, or with one that
    is finetuned already, are dropped. At each level one random candidate is taken from each remaining cell, in random
    order; then the next level begins. All candidates, finetuned ones too, are ranked by the fit.

    Source: arXiv 2408.16357v3, algorithm 2, and the authors' visualizations/AC_sample.py, policy/validate_run.py.
    """

    def propose(self, state: State, seed: int) -> int:
        """A random available row from a random open cell of the coarsest level that has one."""
        rng = np.random.default_rng(seed)
        available = state.available
        taken = np.setdiff1d(np.arange(len(state.features.alignment)), available)
        columns = [state.features.alignment @ state.weights / state.weights.sum()]
        if state.features.correspondence is not None:
            columns.append(state.features.correspondence)
        points = np.stack(columns, axis=1)
        for level in range(1, 53):
            cells = np.minimum(np.floor(points * 2**level), 2**level - 1)
            _, cell = np.unique(cells, axis=0, return_inverse=True)
            open_cells = np.setdiff1d(cell, cell[taken])
            if len(open_cells):
                return int(rng.choice(np.flatnonzero(cell == rng.choice(open_cells))))
        return int(rng.choice(available))  # only exact copies of finetuned candidates are left

    def rank(self, state: State, seed: int) -> Index:
        """(N,) all rows by the value of the published law, the highest first."""
        if len(state.observed) == 1:  # the fit is constant; as in the authors' code the finetuned candidate comes first
            rest = np.setdiff1d(np.arange(len(state.features.alignment)), state.observed)
            return np.concatenate([state.observed, rest])
        used = np.flatnonzero(state.weights)
        features = Features(state.features.alignment[:, used], state.features.correspondence)
        law = PublishedLaw(WITHOUT_C if features.correspondence is None else FULL)
        fitted = law.fit(features, state.observed, state.scores[:, used]).fitted
        return np.argsort(-(fitted @ state.weights[used]), kind="stable")
