"""Distances to large clusters: PyOD's CBLOF, but for its imports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from pyod.models.cblof import CBLOF

from ai_detect.detectors.clusters import large_centres
from ai_detect.detectors.nearest import KnownRows
from ai_detect.tables import Float64Array


@dataclass
class Assigned:
    """Centres that are known, as a scikit-learn estimator."""

    cluster_centers_: Float64Array
    labels_: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def fit(self, X: Float64Array, y: None = None) -> None:
        self.labels_ = self.predict(X)

    def predict(self, X: Float64Array) -> np.ndarray:
        return ((X[:, None] - self.cluster_centers_) ** 2).sum(axis=2).argmin(axis=1)


@pytest.mark.parametrize("sizes", [(400, 60, 9, 6, 3), (100, 100, 100), (95, 5), (3, 40, 300, 40, 8, 8)])
def test_scores_are_those_of_pyod(sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(len(sizes))
    centres = 20 * random.normal(size=(len(sizes), 6))
    rows = np.concatenate([centre + random.normal(size=(n, 6)) for centre, n in zip(centres, sizes, strict=True)])
    share = min(0.9, (1 - min(sizes) / len(rows)) * (1 - 1e-9))
    theirs = CBLOF(n_clusters=len(sizes), clustering_estimator=Assigned(centres), alpha=share).fit(rows)
    strange = (10 * random.normal(size=(200, 6))).astype(np.float32)
    large = large_centres(centres, rows)
    assert 0 < len(large) <= len(sizes)
    assert np.allclose(KnownRows(large).nearest(strange), theirs.decision_function(strange.astype(float)), rtol=1e-12)


def test_one_cluster_is_large() -> None:
    centres = np.array([[0.0, 0.0], [50.0, 50.0]])  # no row is near the second
    assert np.array_equal(large_centres(centres, np.ones((20, 2))), centres[:1])
