"""Distances to the nearest reference rows, exact: a matrix product finds who may be near, sums of squares decide.

The product rounds with the batch, by less than a bound that is known; whoever lies within the bound is measured again,
column after column in one order, so that a row's score depends on the row and the reference alone, bit for bit.
"""

from __future__ import annotations

import numpy as np

from ai_detect.detectors.reference import Reference
from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: Distances that are held at once, and numbers that exact ones are made of; only memory depends on them.
_HELD, _MEASURED = 1 << 20, 1 << 20
#: Numbers in rows whose distances are kept in case they come again: some 16 MiB. A row takes as much as this many.
_KEPT_NUMBERS, _LEAST_NUMBERS = 1 << 22, 32


class NearestDetector:
    """Distance to the nearest reference row: what PyOD's KNN gives with one neighbour, without its imports.

    A log is scored in blocks, and the same rows come in many of them: each is measured once, until all that are kept
    are too many and forgotten.
    """

    def fit(self, reference: Reference) -> None:
        """Keep the rows; all work is done when scoring."""
        self._known = KnownRows(reference.rows)
        self._measured: dict[bytes, float] = {}

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The distances."""
        keys = [row.tobytes() for row in rows]
        new = [at for at, key in enumerate(keys) if key not in self._measured]
        distances = dict(zip((keys[at] for at in new), self._known.nearest(rows[new]).tolist(), strict=True))
        found = [distances[key] if key in distances else self._measured[key] for key in keys]
        most = _KEPT_NUMBERS // max(rows.shape[1], _LEAST_NUMBERS)
        if len(self._measured) + len(distances) > most:
            self._measured.clear()
        if len(distances) <= most:
            self._measured.update(distances)
        return np.array(found, np.float64)


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
