from __future__ import annotations

import numpy as np
import pytest

import ai_detect.detectors.reference as reference_module
from ai_detect.detectors.reference import distinct_rows, make_reference


def test_distinct_rows_map_back() -> None:
    matrix = np.random.default_rng(0).integers(0, 2, (200, 4)).astype(np.float32)
    first, inverse = distinct_rows(matrix)
    assert len(first) == len(np.unique(matrix, axis=0))
    assert np.array_equal(matrix[first][inverse], matrix)
    assert [array.shape for array in distinct_rows(matrix[:0])] == [(0,), (0,)]


def test_weights_count_the_sessions() -> None:
    reference = make_reference(np.array([[1], [2], [1], [1]], np.float32), 0)
    assert sorted(zip(reference.rows[:, 0], reference.weights, strict=True)) == [(1, 3), (2, 1)]


def test_a_large_reference_keeps_frequent_rows_and_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "_MAX_WORK", 100.0**2)
    matrix = np.concatenate([np.arange(1000), np.repeat(np.arange(20), 50)]).astype(np.float32)[:, None]
    reference = make_reference(matrix, 3)
    assert len(reference.rows) == 100
    assert set(range(20)) <= set(reference.rows[:, 0].tolist())
    assert reference.weights.sum() == pytest.approx(len(matrix))
    shuffled = make_reference(np.random.default_rng(0).permutation(matrix), 3)
    assert np.array_equal(shuffled.rows, reference.rows)
