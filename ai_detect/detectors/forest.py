"""An isolation forest (Liu et al., 2008) that PyOD fits, kept as arrays: it scores the same bits without PyOD.

Importing PyOD and scikit-learn takes longer than scoring 50,000 sessions, and so does growing the trees again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.nearest import NearestDetector
from ai_detect.detectors.reference import MIN_ROWS, Reference, frequent_rows
from ai_detect.tables import Float32Array, Float64Array, Int32Array, Int64Array, check_offsets

_N_TREES, _MAX_SAMPLES = 100, 256
#: What leaving the reference's range adds at most to the score of a forest, which lies in [-.5, .5].
_BEYOND = 0.25
#: Rows that walk through the trees at once; only memory depends on it.
_BLOCK = 512
#: Nodes of a tree that tells so many rows apart, and beyond any path; a tree is walked no longer than it is deep.
_MOST_NODES, _LONGEST = 2 * _MAX_SAMPLES - 1, 1e6


@dataclass(frozen=True)
class Forest:
    """Trees one after another, each node before its children."""

    first: Int64Array  # (n_trees + 1,) first node of each tree, and the number of nodes
    column: Int32Array  # what an inner node looks at, -1 in a leaf
    threshold: Float64Array  # to the left up to here
    left: Int32Array  # the node there
    right: Int32Array
    path: Float64Array  # in a leaf: its depth and what its rows would take to be told apart
    scale: Float64Array  # (2,) mean path that means 1/2, and the offset of the scores

    @classmethod
    def of(cls, fitted: Any) -> Forest:
        """What a fitted `pyod.models.iforest.IForest` has learned."""
        trees = [estimator.tree_ for estimator in fitted.estimators_]
        first = np.cumsum([0, *(tree.node_count for tree in trees)])
        inner = np.concatenate([tree.children_left >= 0 for tree in trees])

        def children(name: str) -> Int32Array:
            numbers = [getattr(tree, name) + begin for tree, begin in zip(trees, first, strict=False)]
            return np.where(inner, np.concatenate(numbers), 0).astype(np.int32)

        left, right = children("children_left"), children("children_right")
        n_rows = np.concatenate([tree.n_node_samples for tree in trees])
        path = _depths(first[:-1], left, right) + _average_path(n_rows) - 1.0
        return cls(
            first=first.astype(np.int64),
            column=np.where(inner, np.concatenate([tree.feature for tree in trees]), -1).astype(np.int32),
            threshold=np.where(inner, np.concatenate([tree.threshold for tree in trees]), 0.0),
            left=left,
            right=right,
            path=np.where(inner, 0.0, path),
            scale=np.array([_average_path(np.array([fitted.max_samples_]))[0], fitted.detector_.offset_]),
        )

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The scores that PyOD's forest gives, (n,) float64."""
        n_trees, scores = len(self.first) - 1, np.zeros(len(rows))
        is_leaf = self.column < 0
        column, leaf = np.where(is_leaf, 0, self.column).astype(np.int64), np.arange(len(is_leaf))
        # by twice the node's number and whether its row goes right; a leaf leads to itself
        child = np.stack([np.where(is_leaf, leaf, side) for side in (self.left, self.right)], axis=1).ravel()
        for start in range(0, len(rows), _BLOCK):
            block = np.ascontiguousarray(rows[start : start + _BLOCK])
            row = np.arange(len(block))[:, None] * block.shape[1]
            node = np.tile(self.first[:-1], (len(block), 1))
            while True:
                goes_right = block.take(row + column.take(node)) > self.threshold.take(node)
                below = child.take(2 * node + goes_right)
                if np.array_equal(below, node):
                    break
                node = below
            paths = np.cumsum(self.path.take(node), axis=1)[:, -1]  # added up from the first tree to the last
            scores[start : start + _BLOCK] = 2 ** -(paths / (n_trees * self.scale[0]))
        return scores + float(self.scale[1])

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], n_columns: int) -> Forest:
        """The forest that was saved; raises KeyError or ValueError where the arrays are not one."""
        forest = cls(**{name: arrays[name] for name in cls.__annotations__})
        n = len(forest.column)
        check_array("columns of a forest", forest.column, np.int32, (None,), low=-1, high=n_columns - 1)
        check_array("first nodes of a forest", forest.first, np.int64, (None,))
        check_offsets("first nodes of a forest", forest.first, n)
        check_array("thresholds of a forest", forest.threshold, np.float64, (n,))
        check_array("left nodes of a forest", forest.left, np.int32, (n,))
        check_array("right nodes of a forest", forest.right, np.int32, (n,))
        check_array("paths of a forest", forest.path, np.float64, (n,), low=0, high=_LONGEST)
        check_array("scale of a forest", forest.scale, np.float64, (2,), low=-1, high=_LONGEST)
        sizes = np.diff(forest.first)
        if not 0 < len(sizes) <= _N_TREES or (sizes <= 0).any() or (sizes > _MOST_NODES).any():
            raise ValueError("a forest of no trees, too many, empty or too large ones")
        if forest.scale[0] < 1e-3:
            raise ValueError("a forest whose mean path has no length")
        inner, end = np.flatnonzero(forest.column >= 0), np.repeat(forest.first[1:], sizes)
        for child in (forest.left[inner], forest.right[inner]):
            if (child <= inner).any() or (child >= end[inner]).any():
                raise ValueError("a forest whose nodes do not come before their children")
        return forest


class ForestDetector:
    """An isolation forest, and more for rows that leave the range of the reference."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._forest: Forest | None = None

    def fit(self, reference: Reference) -> None:
        """Grow the trees; with fewer than `MIN_ROWS` distinct rows there are none."""
        if len(reference.rows) >= MIN_ROWS:
            from pyod.models.iforest import IForest

            rows = frequent_rows(reference)
            model = IForest(n_estimators=_N_TREES, max_samples=min(_MAX_SAMPLES, len(rows)), random_state=self._seed)
            self._forest = Forest.of(model.fit(rows))
        self._compare_with(reference)

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` takes beside the reference."""
        return {} if self._forest is None else dict(vars(self._forest))

    def restore(self, reference: Reference, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the place of `fit`; raises KeyError or ValueError where the arrays are not of such a detector."""
        if len(reference.rows) >= MIN_ROWS:
            self._forest = Forest.from_state(arrays, reference.rows.shape[1])
        self._compare_with(reference)

    def decision_function(self, rows: Float32Array) -> Float64Array:
        """The forest's scores and what leaving the range adds, (n,) float64."""
        scorer = self._forest or self._nearest
        return scorer.decision_function(rows) + _BEYOND * self._beyond(rows.astype(np.float64))

    def _compare_with(self, reference: Reference) -> None:
        self._nearest = NearestDetector()
        self._nearest.fit(reference)
        rows = reference.rows.astype(np.float64)
        self._low, self._high = rows.min(axis=0), rows.max(axis=0)

    def _beyond(self, values: Float64Array) -> Float64Array:
        """How far the worst column of each row lies outside the reference, 0 inside to 1; constant ones count in units.

        A tree never splits on a column that was constant, nor beyond what it saw: an event that training does not hold
        would go unnoticed.
        """
        span = self._high - self._low
        excess = np.maximum(self._low - values, values - self._high) / np.where(span > 0, span, 1)
        worst = np.maximum(excess, 0).max(axis=1, initial=0)
        return np.asarray(worst / (1 + worst))


def _depths(roots: Int64Array, left: Int32Array, right: Int32Array) -> Float64Array:
    """Number of nodes from the root to each node, both counted."""
    depths, nodes, depth = np.ones(len(left)), roots, 1
    while len(nodes := nodes[left[nodes] > 0]):
        depth += 1
        nodes = np.concatenate([left[nodes], right[nodes]])
        depths[nodes] = depth
    return depths


def _average_path(n_rows: Int64Array) -> Float64Array:
    """How many splits tell a row from n - 1 others on average (Liu et al., 2008, equation 1)."""
    n = np.maximum(n_rows.astype(np.float64), 3)
    average = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(n_rows <= 1, 0.0, np.where(n_rows == 2, 1.0, average))
