"""Scores of training sessions by detectors that have not seen them: what new sessions' scores are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ai_detect.detectors.comparison import Comparison
from ai_detect.detectors.components import COMPONENTS
from ai_detect.detectors.suspicion import trusted
from ai_detect.detectors.views import SessionEvidence
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int64Array

_FOLDS = 5
#: Neighbouring sessions are held out together, in this many runs: an incident seldom comes alone.
_RUNS = 100
#: So many equal sessions in other folds settle what a session's score will be.
_LIKE = 5
#: Training sessions that calibrate; more would cost time and change nothing but p-values below .0001.
_MOST_JUDGED = 10_000


def held_out_scores(
    evidence: SessionEvidence,
    event_vectors: Float32Array,
    suspects: BoolArray,
    seed: int,
    check: Callable[[], None],
) -> tuple[Int64Array, Int64Array, dict[str, Float64Array]]:
    """Which training sessions were judged, at most `_MOST_JUDGED`, the fold of each, and what detectors that have not
    seen that fold say.
    """
    n = len(evidence)
    n_runs = min(n, _RUNS)
    random = np.random.default_rng(seed)
    # in random order, or what comes back at regular times would be held out as a whole
    fold = (random.permutation(n_runs) % _FOLDS)[np.arange(n) * n_runs // n]
    judged = np.sort(random.permutation(n)[:_MOST_JUDGED])
    names, normal = [component.name for component in COMPONENTS], trusted(suspects)
    held_out = {name: np.zeros(len(judged)) for name in names}
    for number in np.unique(fold[judged]):
        check()
        inside, outside = fold[judged] == number, np.flatnonzero((fold != number) & normal)
        outside = outside if len(outside) else judged  # a lone session has nothing to be held out from
        none_suspect = np.zeros(len(outside), np.bool_)
        comparison = Comparison.fit(evidence, event_vectors, seed, none_suspect, among=outside)
        for name, raw in comparison.raw_scores(evidence.take(judged[inside]), event_vectors, names).items():
            held_out[name][inside] = raw
    return judged, fold[judged], held_out


def settled(
    held_out: Mapping[str, Float64Array],
    comparison: Comparison,
    evidence: SessionEvidence,
    event_vectors: Float32Array,
    fold: Int64Array,
) -> dict[str, Float64Array]:
    """Held-out scores, but those of the final detectors for sessions that have their like in other folds.

    Five folds give one kind of session five scores, which the final detectors give one: without this, p-values are too
    high by what the folds differ. Where at least `_LIKE` equal sessions lie in other folds, a session hardly tells the
    final detectors anything about itself.
    """
    rows = comparison.equal_rows(evidence, event_vectors)
    final = comparison.raw_scores(evidence, event_vectors, list(held_out))
    scores = {}
    for component in COMPONENTS:
        row = rows[component.view]
        in_fold = row * _FOLDS + fold
        elsewhere = np.bincount(row)[row] - np.bincount(in_fold)[in_fold]
        scores[component.name] = np.where(elsewhere >= _LIKE, final[component.name], held_out[component.name])
    return scores
