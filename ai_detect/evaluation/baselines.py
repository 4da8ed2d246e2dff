"""Trivial and classical detectors on event counts, to stand beside every figure of ours.

Known to be hard to beat (Landauer et al., FSE 2024). A threshold is a quantile of what each half of the training
sessions scores against the other half; detectors that cannot learn a session by heart score all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from ai_detect.tables import BoolArray, Float64Array, Int64Array, SequenceTable

#: Scores of the test sessions, after fitting on those of training.
_Scorer = Callable[[SequenceTable, SequenceTable], Float64Array]
#: Alarm above this quantile of the training scores.
QUANTILE = 0.99
#: Count vectors that are compared at once.
_BLOCK = 512
#: Neighbours of a local outlier factor, and a distance that rounding can make of none.
_NEIGHBOURS, _SAME = 20, 1e-6


@dataclass(frozen=True)
class Baseline:
    """Scores of the test sessions (n_test,), higher is more abnormal, and the alarms at a label-free threshold."""

    scores: Float64Array
    is_anomaly: BoolArray


def run_baselines(
    train: SequenceTable, test: SequenceTable, *, quantile: float = QUANTILE, seed: int = 0
) -> dict[str, Baseline]:
    """Every baseline, fitted on `train`; an event that no training session holds is unseen whatever its id."""
    one = np.arange(0, len(train), 2), np.arange(1, len(train), 2)
    halves = [(train.take(a), train.take(b)) for a, b in (one, one[::-1]) if len(a) and len(b)]
    baselines = {"flag_all": Baseline(np.ones(len(test)), np.ones(len(test), np.bool_))}
    scorers: dict[str, _Scorer] = {**_SCORES, "iforest": partial(_isolation_forest, seed=seed)}
    for name, score in scorers.items():
        scores = _rounded(score(train, test))
        parts = [(train, train)] if name in _BY_DISTRIBUTION else halves
        held_out = _rounded(np.concatenate([score(a, b) for a, b in parts] or [np.zeros(1)]))
        baselines[name] = Baseline(scores, scores > np.quantile(held_out, quantile))
    event, length = baselines["new_event"], baselines["length"]
    either = event.is_anomaly | length.is_anomaly
    baselines["event_length"] = Baseline(np.maximum(event.scores, length.scores), either)
    return baselines


def _rounded(scores: Float64Array) -> Float64Array:
    """Without the last digits: sessions that differ by rounding alone tie, and are not beyond a threshold."""
    return np.asarray(np.round(scores, 9))


def count_vectors(train: SequenceTable, sequences: SequenceTable) -> Float64Array:
    """Event counts, (n_sessions, n + 1): a column for each event of training and one for all others."""
    known = np.unique(train.event_id)
    column = np.searchsorted(known, sequences.event_id)
    unseen = known[np.minimum(column, len(known) - 1)] != sequences.event_id
    column[unseen] = len(known)
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    width = len(known) + 1
    counts = np.bincount(session * width + column, minlength=len(sequences) * width)
    return counts.reshape(-1, width).astype(np.float64)


def _new_event(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """Number of events that training does not hold."""
    return np.asarray(count_vectors(train, test)[:, -1])


def _length(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """Events more than in the longest training session, or fewer than in the shortest."""
    lengths = train.lengths
    outside = np.maximum(test.lengths - lengths.max(), lengths.min() - test.lengths)
    return np.asarray(np.maximum(outside, 0), np.float64)


def _bigrams(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """Share of pairs of neighbouring events that training does not hold."""
    width = int(max(train.event_id.max(initial=0), test.event_id.max(initial=0))) + 1
    known, _ = _pairs(train, width)
    pairs, session = _pairs(test, width)
    new = np.bincount(session[~np.isin(pairs, known)], minlength=len(test))
    return np.asarray(new / np.maximum(test.lengths - 1, 1), np.float64)


def _pairs(sequences: SequenceTable, width: int) -> tuple[Int64Array, Int64Array]:
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    inside = session[1:] == session[:-1]
    events = sequences.event_id.astype(np.int64)
    return (events[:-1] * width + events[1:])[inside], session[1:][inside]


def _count_distance(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """ECVC: share of events by which the nearest training count vector differs (Landauer et al., 2024)."""
    known = np.unique(count_vectors(train, train), axis=0)
    vectors, inverse = np.unique(count_vectors(train, test), axis=0, return_inverse=True)
    nearest = np.zeros(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        total = block.sum(axis=1)[:, None] + known.sum(axis=1)[None, :]
        nearest[start : start + _BLOCK] = (cdist(block, known, "cityblock") / np.maximum(total, 1)).min(axis=1)
    return np.asarray(nearest[inverse.reshape(-1)])


def _nearest_distinct(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """KNN1-uniq: distance to the nearest distinct training vector of log counts."""
    known = np.unique(np.log1p(count_vectors(train, train)), axis=0)
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="ball_tree").fit(known)
    vectors, inverse = np.unique(np.log1p(count_vectors(train, test)), axis=0, return_inverse=True)
    return np.asarray(neighbours.kneighbors(vectors)[0][:, 0][inverse.reshape(-1)])


def _ecod(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """ECOD on log counts (Li et al., 2022), its distributions from the training sessions alone."""
    known, vectors = np.log1p(count_vectors(train, train)), np.log1p(count_vectors(train, test))
    n = len(known)
    left, right, skewed = np.zeros(len(vectors)), np.zeros(len(vectors)), np.zeros(len(vectors))
    for column, values in zip(known.T, vectors.T, strict=True):
        ordered = np.sort(column)
        below = -np.log(np.minimum(np.searchsorted(ordered, values, "right") + 1, n + 1) / (n + 1))
        above = -np.log((n - np.searchsorted(ordered, values, "left") + 1) / (n + 1))
        left, right = left + below, right + above
        skewed += below if ((column - column.mean()) ** 3).mean() < 0 else above
    return np.maximum(np.maximum(left, right), skewed)


def _isolation_forest(train: SequenceTable, test: SequenceTable, seed: int) -> Float64Array:
    """Isolation forest on log counts."""
    forest = IsolationForest(n_estimators=100, random_state=seed).fit(np.log1p(count_vectors(train, train)))
    return np.asarray(-forest.score_samples(np.log1p(count_vectors(train, test))), np.float64)


def _local_outlier_factor(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """LOF (Breunig et al., 2000) of 20 neighbours among all training log counts; equal ones are looked at once."""
    known, times = np.unique(np.log1p(count_vectors(train, train)), axis=0, return_counts=True)
    vectors, inverse = np.unique(np.log1p(count_vectors(train, test)), axis=0, return_inverse=True)
    k = max(min(_NEIGHBOURS, len(train) - 1), 1)
    search = NearestNeighbors(n_neighbors=min(k + 1, len(known)), algorithm="brute").fit(known)

    def nearest(rows: Float64Array, is_training: bool) -> tuple[Float64Array, Int64Array, Float64Array]:
        """Distances and indices of the nearest distinct vectors, and the shares of each among the k neighbours."""
        distances, indices = search.kneighbors(rows)
        distances[distances < _SAME] = 0
        copies = times[indices] - (is_training & (indices == np.arange(len(rows))[:, None]))
        before = np.cumsum(copies, axis=1) - copies
        return distances, indices, np.clip(k - before, 0, copies) / k

    distances, indices, shares = nearest(known, True)
    radius = np.where(shares > 0, distances, 0).max(axis=1)

    def density(distances: Float64Array, indices: Int64Array, shares: Float64Array) -> Float64Array:
        return np.asarray(1 / ((shares * np.maximum(distances, radius[indices])).sum(axis=1) + 1e-10))

    known_density = density(distances, indices, shares)
    distances, indices, shares = nearest(vectors, False)
    factor = (shares * known_density[indices]).sum(axis=1) / density(distances, indices, shares)
    return np.asarray(factor[inverse.reshape(-1)])


def _principal_components(train: SequenceTable, test: SequenceTable) -> Float64Array:
    """PCA: what of the log counts lies outside the components of 95 % of the variance (SPE; Xu et al., 2009)."""
    known, vectors = np.log1p(count_vectors(train, train)), np.log1p(count_vectors(train, test))
    _, singular, axes = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    explained = np.cumsum(singular**2)
    axes = axes[: np.searchsorted(explained, 0.95 * explained[-1]) + 1]
    centred = vectors - known.mean(axis=0)
    return np.asarray(((centred - centred @ axes.T @ axes) ** 2).sum(axis=1))


_SCORES: dict[str, _Scorer] = {
    "new_event": _new_event,
    "length": _length,
    "2gram": _bigrams,
    "ecvc": _count_distance,
    "knn1_uniq": _nearest_distinct,
    "ecod": _ecod,
    "lof20": _local_outlier_factor,
    "pca_spe": _principal_components,
}
_BY_DISTRIBUTION = {"ecod", "iforest"}
