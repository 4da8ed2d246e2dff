"""Every detector behind one contract: fit on a reference, then score rows; higher is more abnormal.

A row's score depends on the row and the reference alone, bit for bit. PyOD, scikit-learn and SciPy are imported when
the first detector that needs them is fitted: they take two seconds, which scoring by the ensemble need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.forest import ForestDetector
from ai_detect.detectors.nearest import MassDetector, NearestDetector
from ai_detect.detectors.reference import MIN_ROWS, Reference, frequent_rows
from ai_detect.tables import Float32Array, Float64Array, Int64Array

_N_CLUSTERS = 8
#: Numbers in a reference from which threads are worth their start.
_LARGE = 200_000


class Detector(Protocol):
    """Finds rows that are unlike the reference."""

    def fit(self, reference: Reference) -> None:
        """Learn from distinct rows and the number of sessions that each stands for."""
        ...

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """Scores of rows, (n,) float64, finite."""
        ...


class PyodDetector:
    """A PyOD detector that is made when the reference is known; with `by_frequency` it sees frequent rows repeated."""

    def __init__(self, make: Callable[[Float64Array, int], Any], seed: int, *, by_frequency: bool = False) -> None:
        self._make = make
        self._seed = seed
        self._by_frequency = by_frequency
        self._model: Any = None

    def fit(self, reference: Reference) -> None:
        """Learn from the reference; with fewer than `MIN_ROWS` distinct rows every detector is nearest neighbour."""
        if len(reference.rows) < MIN_ROWS:
            self._model = NearestDetector()
            self._model.fit(reference)
            return
        rows = frequent_rows(reference) if self._by_frequency else reference.rows.astype(np.float64)
        self._model = self._make(rows, self._seed)
        self._model.fit(rows)

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """PyOD's scores."""
        if len(rows) == 0:
            return np.zeros(0)
        return np.asarray(self._model.decision_function(rows.astype(np.float64)), np.float64)


class TailDetector:
    """Sum over columns of -ln of the tail probability, as ECOD (Li et al., 2022; PyOD's own depends on the batch).

    With `both_sides`, the larger of the sums over the left and the right tails.
    """

    def __init__(self, both_sides: bool) -> None:
        self._both_sides = both_sides
        self._right: list[TailCalibration] = []
        self._left: list[TailCalibration] = []

    def fit(self, reference: Reference) -> None:
        """Learn the distribution of every column."""
        columns = reference.rows.T.astype(np.float64)
        self._right = [TailCalibration.fit(column, reference.weights) for column in columns]
        if self._both_sides:
            self._left = [TailCalibration.fit(-column, reference.weights) for column in columns]

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The sums."""
        right, left = np.zeros(len(rows)), np.zeros(len(rows))
        for tail, column in zip(self._right, rows.T.astype(np.float64), strict=True):
            right += tail.surprisal(column)
        if not self._both_sides:
            return right
        for tail, column in zip(self._left, rows.T.astype(np.float64), strict=True):
            left += tail.surprisal(-column)
        return np.maximum(right, left)


class NearestCentre:
    """K-means for PyOD's CBLOF that assigns by exact distances: scikit-learn's products round with the batch."""

    def __init__(self, rows: Float64Array, seed: int) -> None:
        from sklearn.cluster import KMeans

        with threadpool_limits(1):  # sums over threads come in any order
            self.cluster_centers_ = KMeans(_N_CLUSTERS, n_init=1, random_state=seed).fit(rows).cluster_centers_
        self.cluster_centers_ = self.cluster_centers_[np.unique(self.predict(rows))]

    def fit(self, X: Float64Array, y: None = None) -> None:
        """Assign rows; the centres are there."""
        self.labels_ = self.predict(X)

    def predict(self, X: Float64Array) -> Int64Array:
        """The nearest centre of each row."""
        from scipy.spatial.distance import cdist

        return np.asarray(cdist(X, self.cluster_centers_).argmin(axis=1))


def _n_jobs(rows: Float64Array) -> int:
    """All cores where there is enough to compare with; each row is still scored by one."""
    return -1 if rows.size > _LARGE else 1


def _local_density(rows: Float64Array, seed: int) -> Any:
    from pyod.models.lof import LOF

    # a tree adds up each distance alone; brute force multiplies matrices, which round with the batch
    return LOF(n_neighbors=min(20, len(rows) - 1), algorithm="ball_tree", novelty=True, n_jobs=_n_jobs(rows))


def _clusters(rows: Float64Array, seed: int) -> Any:
    from pyod.models.cblof import CBLOF

    centres = NearestCentre(rows, seed)
    sizes = np.bincount(centres.predict(rows))
    # CBLOF refuses to fit where no set of large clusters holds this share of the rows: all but the smallest always does
    alpha = min(0.9, (1 - sizes.min() / len(rows)) * (1 - 1e-9))
    return CBLOF(n_clusters=len(sizes), clustering_estimator=centres, alpha=alpha)


#: By name; each takes a seed.
DETECTORS: dict[str, Callable[[int], Detector]] = {
    "knn": lambda seed: NearestDetector(),
    "mass": lambda seed: MassDetector(),
    "lof": lambda seed: PyodDetector(_local_density, seed),
    "iforest": ForestDetector,
    "cluster": lambda seed: PyodDetector(_clusters, seed, by_frequency=True),
    "reconstruction": lambda seed: TailDetector(both_sides=False),
    "tails": lambda seed: TailDetector(both_sides=False),
    "ecod": lambda seed: TailDetector(both_sides=True),
}
