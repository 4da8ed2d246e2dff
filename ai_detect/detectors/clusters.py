"""Distance to the nearest centre of a large cluster (CBLOF without weights; He, Xu and Deng, 2003).

CBLOF measures rows of small clusters from the nearest large one and all others from their own, which is the nearest.
PyOD's gives the same numbers, but compiles a distance by numba in every process that fits one: 2.5 s.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from ai_detect.detectors.nearest import KnownRows
from ai_detect.detectors.reference import MIN_ROWS, Reference, frequent_rows
from ai_detect.tables import Float32Array, Float64Array, Int64Array

_N_CLUSTERS = 8
#: Large clusters hold this share of the rows, and the smallest of them is so many times as large as the next.
_LARGE_SHARE, _DROP = 0.9, 5


class ClusterDetector:
    """K-means, then distances to large clusters; with fewer than `MIN_ROWS` distinct rows, to the nearest row."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, reference: Reference) -> None:
        """Learn from the reference, frequent rows weighing more."""
        if len(reference.rows) < MIN_ROWS:
            self._known = KnownRows(reference.rows)
            return
        from sklearn.cluster import KMeans

        rows = frequent_rows(reference)
        with threadpool_limits(1):  # sums over threads come in any order
            fitted = KMeans(_N_CLUSTERS, n_init=1, random_state=self._seed).fit(rows)
        self._known = KnownRows(large_centres(fitted.cluster_centers_, rows))

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The distances, (n,) float64."""
        return self._known.nearest(rows)


def large_centres(centres: Float64Array, rows: Float64Array) -> Float64Array:
    """Centres of the large clusters, the largest first, when each row belongs to its nearest centre."""
    sizes = np.bincount(_nearest_centre(rows, centres), minlength=len(centres))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    sizes = sizes[order]
    if len(order) == 1:
        return centres[order]
    # all but the smallest are always enough
    wanted = min(_LARGE_SHARE * len(rows), len(rows) - sizes[-1])
    is_enough, drops = np.cumsum(sizes)[:-1] >= wanted, sizes[:-1] >= _DROP * sizes[1:]
    both = is_enough & drops
    return centres[order[: 1 + int((both if both.any() else is_enough).argmax())]]


def _nearest_centre(rows: Float64Array, centres: Float64Array) -> Int64Array:
    """The nearest centre of each row."""
    squared = np.stack([((rows - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
    return np.asarray(squared.argmin(axis=1), np.int64)
