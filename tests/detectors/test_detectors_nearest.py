"""Exact nearest neighbours: the bits of PyOD's search, in any batch."""

from __future__ import annotations

import numpy as np
import pytest
from pyod.models.knn import KNN

from ai_detect.detectors import nearest
from ai_detect.detectors.nearest import NearestDetector
from ai_detect.detectors.reference import Reference, make_reference
from ai_detect.tables import Float32Array


def rows_of(n: int, d: int, seed: int) -> Float32Array:
    """Rows of which some repeat, some nearly do, and many are equally far from each other."""
    random = np.random.default_rng(seed)
    grid = random.integers(0, 3, (n, d)).astype(np.float32)
    close = grid[: n // 2] + random.normal(size=(n // 2, d)).astype(np.float32) * np.float32(1e-6)
    return np.concatenate([grid, close, random.normal(size=(n, d)).astype(np.float32) * 1000])


@pytest.mark.parametrize("d", [1, 3, 40, 128])
def test_the_nearest_are_those_that_pyod_finds_bit_for_bit(d: int) -> None:
    training, rows = rows_of(120, d, 1), rows_of(90, d, 2)
    rows = np.concatenate([rows, training[:20]])
    ours, theirs = NearestDetector(), KNN(n_neighbors=1, algorithm="ball_tree")
    ours.fit(Reference(training, np.ones(len(training))))
    theirs.fit(training.astype(np.float64))
    scores = ours.decision_function(rows)
    assert np.array_equal(scores, theirs.decision_function(rows.astype(np.float64)))
    assert (scores[-20:] == 0).all()


def test_memory_has_no_part_in_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, reference = rows_of(60, 7, 5), make_reference(rows_of(100, 7, 6), 0)
    detector = NearestDetector()
    detector.fit(reference)
    scores = detector.decision_function(rows)
    monkeypatch.setattr(nearest, "_HELD", 1000)
    monkeypatch.setattr(nearest, "_MEASURED", 50)
    for n_kept in (0, 30, 1000):  # none, so many that they are forgotten now and then, all
        monkeypatch.setattr(nearest, "_KEPT_NUMBERS", 7 * n_kept)
        detector.fit(reference)
        for part in (slice(0, 25), slice(20, 40), slice(10, 12), slice(0, len(rows)), slice(30, 60)):
            assert np.array_equal(detector.decision_function(rows[part]), scores[part])
