"""Every detector behind one contract: fit on a reference, then score rows; higher is more abnormal.

A row's score depends on the row and the reference alone, bit for bit. PyOD, scikit-learn and SciPy are imported when
the first detector is fitted: they take two seconds, which training and its resume need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.reference import Reference
from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: Below this many distinct rows there are no neighbourhoods, clusters or splits: distance to the nearest row instead.
MIN_ROWS = 10
#: Rows, beside one of each kind, that show a detector how frequent each kind is.
_FREQUENT_ROWS = 4096
_N_CLUSTERS = 8
#: What leaving the reference's range adds at most to the score of an isolation forest, which lies in [-.5, .5].
_BEYOND = 0.25
#: Share of the training sessions that a `MassDetector` looks for, and the rows that it looks from at once.
_MASS = 0.02
_BLOCK = 512
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
    """A PyOD detector that is made when the reference is known."""

    def __init__(
        self,
        make: Callable[[Float64Array, int], Any],
        seed: int,
        *,
        by_frequency: bool = False,
        splits_in_range: bool = False,
    ) -> None:
        self._make = make
        self._seed = seed
        self._by_frequency = by_frequency
        self._splits_in_range = splits_in_range
        self._model: Any = None
        self._low: Float64Array = np.zeros(0)
        self._high: Float64Array = np.zeros(0)

    def fit(self, reference: Reference) -> None:
        """Learn from the reference; with fewer than `MIN_ROWS` distinct rows every detector is nearest neighbour."""
        rows = reference.rows.astype(np.float64)
        self._low, self._high = rows.min(axis=0), rows.max(axis=0)
        if len(rows) < MIN_ROWS:
            rows = np.repeat(rows, 2, axis=0)  # PyOD wants more rows than neighbours
            self._model = _nearest(rows, self._seed)
        else:
            if self._by_frequency:
                share = reference.weights / reference.weights.sum()
                rows = np.repeat(rows, np.ceil(share * _FREQUENT_ROWS).astype(np.int64), axis=0)
            self._model = self._make(rows, self._seed)
        self._model.fit(rows)

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """PyOD's scores; for a detector that splits within the reference's range, more for rows that leave it."""
        if len(rows) == 0:
            return np.zeros(0)
        values = rows.astype(np.float64)
        scores = np.asarray(self._model.decision_function(values), np.float64)
        return scores + _BEYOND * self._beyond(values) if self._splits_in_range else scores

    def _beyond(self, values: Float64Array) -> Float64Array:
        """How far the worst column of each row lies outside the reference, 0 inside to 1; constant ones count in units.

        A tree never splits on a column that was constant, nor beyond what it saw: an event that training does not hold
        would go unnoticed.
        """
        span = self._high - self._low
        excess = np.maximum(self._low - values, values - self._high) / np.where(span > 0, span, 1)
        worst = np.maximum(excess, 0).max(axis=1, initial=0)
        return np.asarray(worst / (1 + worst))


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


class MassDetector:
    """Distance to so many of the nearest training sessions that a repeated anomaly cannot be them all: `_MASS` of all.

    The k-th nearest neighbour (Ramaswamy et al., 2000) with k a share of the sessions, duplicates counted.
    """

    def __init__(self) -> None:
        self._reference = Reference(np.zeros((0, 0), np.float32), np.zeros(0))

    def fit(self, reference: Reference) -> None:
        """Keep the rows; all work is done when scoring."""
        self._reference = reference

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The distances."""
        from scipy.spatial.distance import cdist

        known, weights = self._reference.rows, self._reference.weights
        scores, wanted = np.zeros(len(rows)), _MASS * weights.sum()
        enough = min(int(np.searchsorted(np.cumsum(np.sort(weights)), wanted)), len(known) - 1)  # so many always do
        for start in range(0, len(rows), _BLOCK):
            distances = cdist(rows[start : start + _BLOCK], known)
            near = np.argpartition(distances, enough, axis=1)[:, : enough + 1]
            nearest_first = np.argsort(np.take_along_axis(distances, near, axis=1), axis=1, kind="stable")
            order = np.take_along_axis(near, nearest_first, axis=1)
            reached = np.cumsum(weights[order], axis=1) >= wanted
            nearest = order[np.arange(len(order)), reached.argmax(axis=1)]
            scores[start : start + _BLOCK] = distances[np.arange(len(order)), nearest]
        return scores


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


def _nearest(rows: Float64Array, seed: int) -> Any:
    from pyod.models.knn import KNN

    # a tree adds up each distance alone; brute force multiplies matrices, which round with the batch
    return KNN(n_neighbors=1, algorithm="ball_tree", n_jobs=_n_jobs(rows))


def _local_density(rows: Float64Array, seed: int) -> Any:
    from pyod.models.lof import LOF

    return LOF(n_neighbors=min(20, len(rows) - 1), algorithm="ball_tree", novelty=True, n_jobs=_n_jobs(rows))


def _isolation_forest(rows: Float64Array, seed: int) -> Any:
    from pyod.models.iforest import IForest

    return IForest(n_estimators=100, max_samples=min(256, len(rows)), random_state=seed)


def _clusters(rows: Float64Array, seed: int) -> Any:
    from pyod.models.cblof import CBLOF

    centres = NearestCentre(rows, seed)
    sizes = np.bincount(centres.predict(rows))
    # CBLOF refuses to fit where no set of large clusters holds this share of the rows: all but the smallest always does
    alpha = min(0.9, (1 - sizes.min() / len(rows)) * (1 - 1e-9))
    return CBLOF(n_clusters=len(sizes), clustering_estimator=centres, alpha=alpha)


#: By name; each takes a seed.
DETECTORS: dict[str, Callable[[int], Detector]] = {
    "knn": lambda seed: PyodDetector(_nearest, seed),
    "mass": lambda seed: MassDetector(),
    "lof": lambda seed: PyodDetector(_local_density, seed),
    "iforest": lambda seed: PyodDetector(_isolation_forest, seed, by_frequency=True, splits_in_range=True),
    "cluster": lambda seed: PyodDetector(_clusters, seed, by_frequency=True),
    "reconstruction": lambda seed: TailDetector(both_sides=False),
    "tails": lambda seed: TailDetector(both_sides=False),
    "ecod": lambda seed: TailDetector(both_sides=True),
}
