"""How often events occur given how often others do: as many closes as opens, no commit without a begin.

A Chow-Liu tree (Chow and Liu, 1968): of all distributions in which each event depends on one other, the one nearest to
the training sessions. What always comes together is counted once, and a relation that never was broken is noticed
when it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai_detect.artifacts import check_array
from ai_detect.detectors.reference import distinct_rows
from ai_detect.tables import Float64Array, Int32Array

UInt8Array = NDArray[np.uint8]

#: Counts that are told apart; this and more are one level.
MOST = 6
#: Distinct rows that the tree's edges are learned from, and how many of them at once; its tables come from all rows.
_MAX_ROWS, _BLOCK = 8192, 2048
#: Nats; columns that tell less than this of each other do not depend on each other.
_NOTHING = 1e-9
#: No probability is below e to the power of minus this.
_LARGEST = 1e3


@dataclass(frozen=True)
class DependenceTree:
    """`parent` (d,) is -1 for a root; `log_p` (d, MOST + 1, MOST + 1) is ln p of a column's level (last axis) given
    its parent's.
    """

    parent: Int32Array
    log_p: Float64Array

    @classmethod
    def fit(cls, levels: UInt8Array, weights: Float64Array) -> DependenceTree:
        """Learn from distinct rows of counts, (n, d) cut off at `MOST`, and the sessions that each stands for.

        Whole weights are added up exactly, so that the tree does not depend on the order of the rows or on threads.
        """
        parent = _parents(levels, weights)
        n_levels, n, d = MOST + 1, weights.sum(), levels.shape[1]
        log_p = np.empty((d, n_levels, n_levels))
        for column in range(d):
            own = levels[:, column]
            marginal = np.bincount(own, weights, n_levels) + 0.5
            marginal /= n + 0.5 * n_levels
            above = own if parent[column] < 0 else levels[:, parent[column]]
            counts = np.bincount(above.astype(np.int64) * n_levels + own, weights, n_levels**2).reshape(n_levels, -1)
            if parent[column] < 0:
                counts[:] = 0  # a root depends on nothing
            log_p[column] = np.log((counts + marginal) / (counts.sum(axis=1, keepdims=True) + 1))
        return cls(parent, log_p)

    def surprise(self, levels: UInt8Array) -> Float64Array:
        """-ln p of each column's level given its parent's, (n, d)."""
        above = levels[:, np.where(self.parent < 0, np.arange(len(self.parent)), self.parent)]
        return np.asarray(-self.log_p[np.arange(len(self.parent)), above, levels], np.float64)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {"parent": self.parent, "log_p": self.log_p}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], n_columns: int) -> DependenceTree:
        """The tree that was saved; raises KeyError or ValueError where the arrays are not one."""
        parent, log_p = arrays["parent"], arrays["log_p"]
        check_array("parent", parent, np.int32, (n_columns,), low=-1, high=n_columns - 1)
        check_array("log_p", log_p, np.float64, (n_columns, MOST + 1, MOST + 1), low=-_LARGEST, high=0)
        return cls(parent, log_p)


def _parents(levels: UInt8Array, weights: Float64Array) -> Int32Array:
    """The maximum spanning trees of the mutual information between columns, grown from the first column (Prim)."""
    information = _mutual_information(levels, weights)
    parent = np.full(len(information), -1, np.int32)
    nearest, best = np.zeros(len(information), np.int32), np.full(len(information), -1.0)
    best[0] = 0
    for _ in range(len(information)):
        column = int(best.argmax())
        parent[column] = nearest[column] if best[column] > _NOTHING else -1
        best[column] = -np.inf  # it is in the tree
        closer = (information[column] > best) & np.isfinite(best)
        nearest[closer], best[closer] = column, information[column, closer]
    return parent


def _mutual_information(levels: UInt8Array, weights: Float64Array) -> Float64Array:
    """Between each pair of columns, (d, d) in nats, from the rows (of too many, evenly spaced ones)."""
    if len(levels) > _MAX_ROWS:
        some = np.linspace(0, len(levels) - 1, _MAX_ROWS).astype(np.int64)
        levels, weights = levels[some], weights[some]
    column, level = np.nonzero([np.bincount(values, minlength=MOST + 1) for values in levels.T])
    together = np.zeros((len(column), len(column)))
    for start in range(0, len(levels), _BLOCK):
        is_there = (levels[start : start + _BLOCK, column] == level).astype(np.float64)
        together += (is_there * weights[start : start + _BLOCK, None]).T @ is_there
    alone, n = np.diag(together), weights.sum()
    share = np.where(together > 0, together, 1)
    parts = together / n * np.log(share * n / (alone[:, None] * alone))
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    return np.maximum(np.add.reduceat(np.add.reduceat(parts, starts, axis=0), starts, axis=1), 0)


def distinct_levels(levels: UInt8Array, weights: Float64Array) -> tuple[UInt8Array, Float64Array]:
    """Distinct rows in the order of their content, each with the weight of all its like."""
    first, inverse = distinct_rows(levels)
    return levels[first], np.bincount(inverse, weights, len(first)).astype(np.float64)
