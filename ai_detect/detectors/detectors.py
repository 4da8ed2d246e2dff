"""Every detector behind one contract: fit on a reference, then score rows; higher is more abnormal.

A row's score depends on the row and the reference alone, bit for bit. PyOD, scikit-learn and SciPy are imported when
the first detector that needs them is fitted: they take two seconds, which scoring by the ensemble need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.clusters import ClusterDetector
from ai_detect.detectors.forest import ForestDetector
from ai_detect.detectors.nearest import NearestDetector
from ai_detect.detectors.reference import MIN_ROWS, Reference
from ai_detect.tables import Float32Array, Float64Array

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

    def __init__(self, make: Callable[[Float64Array], Any]) -> None:
        self._make = make
        self._model: Any = None

    def fit(self, reference: Reference) -> None:
        """Learn from the reference; with fewer than `MIN_ROWS` distinct rows every detector is nearest neighbour."""
        if len(reference.rows) < MIN_ROWS:
            self._model = NearestDetector()
            self._model.fit(reference)
            return
        rows = reference.rows.astype(np.float64)
        self._model = self._make(rows)
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


class InNats:
    """A detector that sees in each column -ln of the share of training sessions with as high a number.

    Distances then weigh columns of any scale alike. A column says no more than training can show, so that one number
    alone does not decide.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._tails: list[TailCalibration] = []

    def fit(self, reference: Reference) -> None:
        """Learn the distribution of every column, and let the detector learn from the nats."""
        columns = reference.rows.T.astype(np.float64)
        self._tails = [TailCalibration.fit(column, reference.weights) for column in columns]
        self._detector.fit(Reference(self._nats(reference.rows), reference.weights))

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The detector's scores."""
        return self._detector.decision_function(self._nats(rows))

    def _nats(self, rows: Float32Array) -> Float32Array:
        columns = zip(self._tails, rows.T.astype(np.float64), strict=True)
        nats = [tail.supported(column) for tail, column in columns]
        return np.ascontiguousarray(np.stack(nats, axis=1), np.float32)


def _n_jobs(rows: Float64Array) -> int:
    """All cores where there is enough to compare with; each row is still scored by one."""
    return -1 if rows.size > _LARGE else 1


def _local_density(rows: Float64Array) -> Any:
    from pyod.models.lof import LOF

    # a tree adds up each distance alone; brute force multiplies matrices, which round with the batch
    return LOF(n_neighbors=min(20, len(rows) - 1), algorithm="ball_tree", novelty=True, n_jobs=_n_jobs(rows))


#: By name; each takes a seed.
DETECTORS: dict[str, Callable[[int], Detector]] = {
    "knn": lambda seed: NearestDetector(),
    "lof": lambda seed: PyodDetector(_local_density),
    "iforest": ForestDetector,
    "cluster": ClusterDetector,
    "reconstruction": lambda seed: TailDetector(both_sides=False),
    "tails": lambda seed: TailDetector(both_sides=False),
    "ecod": lambda seed: TailDetector(both_sides=True),
}
