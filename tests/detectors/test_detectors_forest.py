"""A stored forest: the bits of PyOD's, without PyOD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pyod.models.iforest import IForest

from ai_detect.detectors.forest import Forest, ForestDetector
from ai_detect.detectors.reference import make_reference
from ai_detect.tables import Float32Array


def rows_of(n: int, d: int, seed: int) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    rows[:, ::3] = np.round(rows[:, ::3])
    return rows


@pytest.fixture(scope="module")
def forest() -> Forest:
    return Forest.of(IForest(n_estimators=20, max_samples=64, random_state=1).fit(rows_of(300, 7, 1).astype(float)))


@pytest.mark.parametrize(("n", "d", "max_samples"), [(10, 1, 10), (50, 3, 50), (600, 14, 256)])
def test_scores_are_those_of_pyod_bit_for_bit(n: int, d: int, max_samples: int) -> None:
    model = IForest(n_estimators=100, max_samples=max_samples, random_state=3).fit(rows_of(n, d, 1).astype(float))
    rows = np.concatenate([rows_of(500, d, 2), rows_of(n, d, 1), 9 * rows_of(50, d, 4)])
    scores = Forest.of(model).decision_function(rows)
    assert np.array_equal(scores, model.decision_function(rows.astype(np.float64)))
    assert len(np.unique(scores)) >= 3


def test_what_was_restored_scores_as_what_was_fitted() -> None:
    reference, rows = make_reference(rows_of(200, 5, 1), 0), rows_of(100, 5, 2)
    fitted, restored = ForestDetector(4), ForestDetector(99)
    fitted.fit(reference)
    restored.restore(reference, fitted.state())
    assert np.array_equal(restored.decision_function(rows), fitted.decision_function(rows))


def test_few_rows_grow_no_trees() -> None:
    reference, rows = make_reference(rows_of(9, 5, 1), 0), rows_of(20, 5, 2)
    fitted, restored = ForestDetector(4), ForestDetector(4)
    fitted.fit(reference)
    assert fitted.state() == {}
    restored.restore(reference, {})
    assert np.array_equal(restored.decision_function(rows), fitted.decision_function(rows))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first", lambda array: array[:0]),
        ("first", lambda array: np.append(0, array)),
        ("first", lambda array: array + 1),
        ("column", lambda array: array + 1),
        ("column", lambda array: array * 0),
        ("left", lambda array: array * 0),
        ("right", lambda array: array * 0),
        ("right", lambda array: array + len(array)),
        ("right", lambda array: array[:-1]),
        ("threshold", lambda array: array * np.nan),
        ("path", lambda array: -1 - array),
        ("scale", lambda array: array * 0),
    ],
)
def test_a_forest_that_leads_nowhere_is_refused(
    forest: Forest, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    arrays = dict(vars(forest))
    assert np.array_equal(Forest.from_state(arrays, 7).path, forest.path)
    changed = change(arrays[name]).astype(arrays[name].dtype)
    with pytest.raises(ValueError, match="forest"):
        Forest.from_state({**arrays, name: changed}, 7)


def test_a_forest_that_would_be_walked_for_hours_is_refused() -> None:
    """Each node before its children, but a hundred thousand in one row, or as many trees."""
    n = 100_000
    node = np.arange(n)
    is_leaf = node == n - 1
    chain = Forest(
        first=np.array([0, n]),
        column=np.where(is_leaf, -1, 0).astype(np.int32),
        threshold=np.zeros(n),
        left=np.where(is_leaf, 0, node + 1).astype(np.int32),
        right=np.where(is_leaf, 0, node + 1).astype(np.int32),
        path=np.zeros(n),
        scale=np.array([10.0, -0.5]),
    )
    trees = replace(chain, first=np.arange(n + 1), column=np.full(n, -1, np.int32))
    for forest in (chain, trees):
        with pytest.raises(ValueError, match="a forest of no trees, too many, empty or too large ones"):
            Forest.from_state(vars(forest), 7)
