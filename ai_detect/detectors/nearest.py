"""Distances to the nearest reference rows, exact: a matrix product finds who may be near, sums of squares decide.

The product rounds with the batch, by less than a bound that is known; whoever lies within the bound is measured again,
column after column in one order, so that a row's score depends on the row and the reference alone, bit for bit.
"""

from __future__ import annotations

import numpy as np

from ai_detect.detectors.reference import Reference
from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: Share of the training sessions that a `MassDetector` looks for.
_MASS = 0.02
#: Distances that are held at once, and numbers that exact ones are made of; only memory depends on them.
_HELD, _MEASURED = 1 << 20, 1 << 20


class NearestDetector:
    """Distance to the nearest reference row: what PyOD's KNN gives with one neighbour, without its imports."""

    def fit(self, reference: Reference) -> None:
        """Keep the rows; all work is done when scoring."""
        self._known = KnownRows(reference.rows)

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The distances."""
        return self._known.nearest(rows)


class MassDetector:
    """Distance to so many of the nearest training sessions that a repeated anomaly cannot be them all: `_MASS` of all.

    The k-th nearest neighbour (Ramaswamy et al., 2000) with k a share of the sessions, duplicates counted.
    """

    def fit(self, reference: Reference) -> None:
        """Keep the rows; all work is done when scoring."""
        self._known, self._weights = KnownRows(reference.rows), reference.weights
        self._wanted = _MASS * reference.weights.sum()
        # so many of the nearest always are enough
        n_enough = np.searchsorted(np.cumsum(np.sort(reference.weights)), self._wanted) + 1
        self._n_enough = min(int(n_enough), len(reference.weights))

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The distances."""
        scores = np.zeros(len(rows))
        for block in self._known.blocks(len(rows)):
            scores[block] = np.sqrt(self._squared(rows[block].astype(np.float64)))
        return scores

    def _squared(self, rows: Float64Array) -> Float64Array:
        roughly, slack = self._known.roughly(rows)
        nearest = np.argpartition(roughly, self._n_enough - 1, axis=1)[:, : self._n_enough]
        level = self._reaching(np.take_along_axis(roughly, nearest, axis=1), self._weights[nearest], 0)
        # rounding moves the level by no more than it moves a distance: whoever is exactly there is among these
        low, high = (level - 2 * slack)[:, None], (level + 2 * slack)[:, None]
        row, other = np.nonzero((roughly >= low) & (roughly <= high))
        n_there = np.bincount(row, minlength=len(rows))
        place = np.arange(len(row)) - np.repeat(np.cumsum(n_there) - n_there, n_there)
        distances = np.full((len(rows), n_there.max()), np.inf)
        weights = np.zeros(distances.shape)
        distances[row, place] = self._known.squared_distances(rows, row, other)
        weights[row, place] = self._weights[other]
        return self._reaching(distances, weights, ((roughly < low) * self._weights).sum(axis=1, keepdims=True))

    def _reaching(self, distances: Float64Array, weights: Float64Array, before: Float64Array | float) -> Float64Array:
        """The distance in each row at which the weights, added up from the nearest on to those `before`, are enough."""
        order = np.argsort(distances, axis=1, kind="stable")
        mass = before + np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
        is_enough = mass >= np.minimum(self._wanted, mass[:, -1:])  # sums may round to less than all
        at = np.take_along_axis(order, is_enough.argmax(axis=1)[:, None], axis=1)
        return np.asarray(np.take_along_axis(distances, at, axis=1)[:, 0])


class KnownRows:
    """Rows (k, d) to measure distances to."""

    def __init__(self, rows: Float32Array | Float64Array) -> None:
        self._rows = rows.astype(np.float64)
        self._squares = (self._rows**2).sum(axis=1)

    def nearest(self, rows: Float32Array) -> Float64Array:
        """Distance of each row to the nearest of these, (n, d) to (n,)."""
        distances = np.zeros(len(rows))
        for block in self.blocks(len(rows)):
            wanted = rows[block].astype(np.float64)
            roughly, slack = self.roughly(wanted)
            row, other = np.nonzero(roughly <= (roughly.min(axis=1) + 2 * slack)[:, None])
            exact = self.squared_distances(wanted, row, other)
            distances[block] = np.sqrt(np.minimum.reduceat(exact, np.searchsorted(row, np.arange(len(wanted)))))
        return distances

    def blocks(self, n: int) -> list[slice]:
        """`n` rows in blocks whose distances to all that is known fit into memory."""
        size = max(1, _HELD // len(self._rows))
        return [slice(start, start + size) for start in range(0, n, size)]

    def roughly(self, rows: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Squared distances (n, k) by one product, and how far they may be from the exact ones at most, (n,)."""
        squares = (rows**2).sum(axis=1)
        distances = rows @ self._rows.T
        distances *= -2
        distances += squares[:, None]
        distances += self._squares
        # each of the sums has d terms and rounds d times (Higham, 2002, section 3.1); the factor is generous
        slack = 8 * (rows.shape[1] + 4) * np.finfo(np.float64).eps * (squares + self._squares.max())
        return distances, slack

    def squared_distances(self, rows: Float64Array, row: Int64Array, other: Int64Array) -> Float64Array:
        """Between `rows[row[i]]` and the known row `other[i]`, columns added up from the first to the last."""
        exact, size = np.empty(len(row)), max(1, _MEASURED // rows.shape[1])
        for start in range(0, len(row), size):
            part = slice(start, start + size)
            exact[part] = np.cumsum((rows[row[part]] - self._rows[other[part]]) ** 2, axis=1)[:, -1]
        return exact
