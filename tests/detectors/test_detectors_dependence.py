"""The tree of dependences between event counts."""

import numpy as np
import pytest

from ai_detect.detectors.dependence import MOST, DependenceTree, distinct_levels


def _levels(n: int = 500) -> np.ndarray:
    """Columns: opens, closes (as many), an event of its own, one that never occurs."""
    rng = np.random.default_rng(0)
    opens, other = rng.integers(1, 5, n), rng.integers(0, 3, n)
    return np.column_stack([opens, opens, other, np.zeros(n)]).astype(np.uint8)


def _fit(levels: np.ndarray) -> DependenceTree:
    return DependenceTree.fit(*distinct_levels(levels, np.ones(len(levels))))


def test_a_broken_relation_is_the_surprise_and_says_where() -> None:
    tree = _fit(_levels())
    whole, broken, new = tree.surprise(np.array([[3, 3, 1, 0], [3, 2, 1, 0], [3, 3, 1, 1]], np.uint8))
    assert broken.sum() > whole.sum() + 3
    assert broken[:2].max() == broken.max()
    assert new.argmax() == 3
    assert new.sum() > whole.sum() + 3


def test_what_comes_together_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    rare = (rng.random(2000) < 0.02).astype(np.uint8)
    levels = np.column_stack([np.ones(2000), rare, rare, rare, rare]).astype(np.uint8)
    surprise = _fit(levels).surprise(np.array([[1, 1, 1, 1, 1]], np.uint8)).sum()
    assert -np.log(0.02) - 1 < surprise < -np.log(0.02) + 1


def test_probabilities_add_up_to_one() -> None:
    tree = _fit(_levels())
    assert np.exp(tree.log_p).sum(axis=2) == pytest.approx(np.ones((4, MOST + 1)))


def test_neither_the_order_of_rows_nor_what_else_is_scored_matters() -> None:
    levels = _levels()
    tree, shuffled = _fit(levels), _fit(levels[::-1])
    assert np.array_equal(tree.parent, shuffled.parent)
    assert np.array_equal(tree.log_p, shuffled.log_p)
    alone = np.concatenate([tree.surprise(row[None]) for row in levels])
    assert np.array_equal(alone, tree.surprise(levels))


def test_saved_and_read_back() -> None:
    tree = _fit(_levels())
    again = DependenceTree.from_state(tree.state(), 4)
    assert np.array_equal(again.surprise(_levels()), tree.surprise(_levels()))
    for name, array in (("parent", tree.parent + 4), ("log_p", -tree.log_p), ("parent", tree.parent[:3])):
        with pytest.raises(ValueError, match=name):
            DependenceTree.from_state({**tree.state(), name: array}, 4)
