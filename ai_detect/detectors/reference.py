"""The rows that detectors compare with: distinct training rows, and how many sessions each stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: Below this many distinct rows there are no neighbourhoods, clusters or splits: distance to the nearest row instead.
MIN_ROWS = 10
#: Rows, beside one of each kind, that show a detector how frequent each kind is.
_FREQUENT_ROWS = 4096
#: Most work of comparing all rows of a reference with each other, in numbers: about 1 s.
_MAX_WORK = 1e9


@dataclass(frozen=True)
class Reference:
    """`rows` (k, d) distinct, `weights` (k,) sessions that each stands for."""

    rows: Float32Array
    weights: Float64Array


def distinct_rows(matrix: np.ndarray) -> tuple[Int64Array, Int64Array]:
    """Rows that differ bit by bit: `first` (k,) and `inverse` (n,), so that `matrix[first][inverse] == matrix`."""
    content = np.ascontiguousarray(matrix)
    if content.shape[1] == 0 or len(content) == 0:
        return np.arange(min(len(content), 1)), np.zeros(len(content), np.int64)
    keys = content.view(np.dtype((np.void, content.dtype.itemsize * content.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first.astype(np.int64), inverse.reshape(-1).astype(np.int64)


def most_rows(n_columns: int) -> int:
    """Most rows that a reference holds."""
    return int(np.sqrt(_MAX_WORK / max(n_columns, 1)))


def make_reference(matrix: Float32Array, seed: int) -> Reference:
    """Distinct rows with their frequencies, sorted by content, so that the order of the sessions does not matter.

    Where there are too many to compare, half of those kept are the most frequent rows and the others are drawn from
    the rest, each drawn row standing for its share of those left out.
    """
    first, inverse = distinct_rows(matrix)
    rows, weights = matrix[first], np.bincount(inverse, minlength=len(first)).astype(np.float64)
    most = most_rows(matrix.shape[1])
    if len(rows) > most:
        by_weight = np.argsort(-weights, kind="stable")
        rest = by_weight[most // 2 :]
        drawn = np.sort(np.random.default_rng(seed).permutation(rest)[: most - most // 2])
        weights[drawn] *= weights[rest].sum() / weights[drawn].sum()
        kept = np.sort(np.concatenate([by_weight[: most // 2], drawn]))
        rows, weights = rows[kept], weights[kept]
    return Reference(rows, weights)


def frequent_rows(reference: Reference) -> Float64Array:
    """The rows, each as often as its share of the sessions asks for, at least once."""
    share = reference.weights / reference.weights.sum()
    return np.repeat(reference.rows.astype(np.float64), np.ceil(share * _FREQUENT_ROWS).astype(np.int64), axis=0)
