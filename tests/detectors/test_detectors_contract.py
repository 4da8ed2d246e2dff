"""What every detector promises, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest

from ai_detect.detectors.detectors import DETECTORS, InNats
from ai_detect.detectors.nearest import NearestDetector
from ai_detect.detectors.reference import MIN_ROWS, make_reference
from ai_detect.tables import Float32Array

ALL = pytest.mark.parametrize("name", sorted(DETECTORS))


def cloud(n: int, d: int = 20, seed: int = 0) -> Float32Array:
    """Rows on a coarse grid, so that some repeat, with one column that never varies."""
    rows = np.round(np.random.default_rng(seed).normal(size=(n, d)) * 2).astype(np.float32) / 2
    rows[:, 3] = 1.0
    return np.concatenate([rows, rows[: n // 3]])


def scores_of(name: str, training: Float32Array, rows: Float32Array, seed: int = 3) -> np.ndarray:
    detector = DETECTORS[name](seed)
    detector.fit(make_reference(training, seed))
    return detector.decision_function(rows)


@ALL
def test_far_away_scores_higher_than_the_midst(name: str) -> None:
    training = cloud(300)
    far = np.full((20, training.shape[1]), 9.0, np.float32)
    assert scores_of(name, training, far).min() > np.quantile(scores_of(name, training, cloud(100, seed=5)), 0.9)


@ALL
def test_scores_are_finite_and_not_all_equal(name: str) -> None:
    scores = scores_of(name, cloud(300), cloud(100, seed=5))
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 20


@ALL
def test_a_row_scores_the_same_alone_in_any_batch_and_in_any_order(name: str) -> None:
    detector = DETECTORS[name](3)
    detector.fit(make_reference(cloud(400, 40), 3))
    rows = cloud(300, 40, seed=5)
    together = detector.decision_function(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    assert np.array_equal(detector.decision_function(rows[order]), together[order])
    assert np.array_equal(detector.decision_function(rows[7:70]), together[7:70])
    alone = np.concatenate([detector.decision_function(rows[i : i + 1]) for i in range(40)])
    assert np.array_equal(alone, together[:40])


@ALL
def test_the_order_of_the_training_rows_does_not_matter(name: str) -> None:
    training, rows = cloud(300), cloud(100, seed=5)
    shuffled = np.random.default_rng(1).permutation(training)
    assert np.array_equal(scores_of(name, training, rows), scores_of(name, shuffled, rows))


@ALL
def test_fitting_twice_gives_the_same_scores(name: str) -> None:
    assert np.array_equal(
        scores_of(name, cloud(300), cloud(50, seed=5)), scores_of(name, cloud(300), cloud(50, seed=5))
    )


@ALL
def test_the_input_is_left_as_it_was(name: str) -> None:
    training, rows = cloud(300), cloud(50, seed=5)
    before = training.copy(), rows.copy()
    scores_of(name, training, rows)
    assert np.array_equal(training, before[0])
    assert np.array_equal(rows, before[1])


@ALL
@pytest.mark.parametrize("n", [1, 2, MIN_ROWS - 1, MIN_ROWS, MIN_ROWS + 1, 21])
def test_few_training_rows_are_enough(name: str, n: int) -> None:
    training = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    rows = np.concatenate([training[:1], training[:1] + 50])
    near, far = scores_of(name, training, rows)
    assert np.isfinite([near, far]).all()
    assert far > near


@ALL
def test_a_training_log_of_one_kind_of_session(name: str) -> None:
    training = np.tile(np.array([[1.0, 0.0, 2.0]], np.float32), (200, 1))
    known, unknown = scores_of(name, training, np.array([[1, 0, 2], [1, 1, 3]], np.float32))
    assert unknown > known


@ALL
def test_no_rows_give_no_scores(name: str) -> None:
    assert scores_of(name, cloud(50), np.zeros((0, 20), np.float32)).shape == (0,)


def in_nats(training: Float32Array, rows: Float32Array) -> np.ndarray:
    detector = InNats(NearestDetector())
    detector.fit(make_reference(training, 0))
    return detector.decision_function(rows)


def test_in_nats_the_scale_of_a_column_does_not_matter() -> None:
    training, rows = cloud(300), cloud(100, seed=5)
    scale = np.where(np.arange(training.shape[1]) % 2, 1024, 1).astype(np.float32)
    assert np.allclose(in_nats(training, rows), in_nats(training * scale, rows * scale))
    assert not np.allclose(scores_of("knn", training, rows), scores_of("knn", training * scale, rows * scale))


def test_in_nats_one_column_far_out_does_not_outdo_several_that_are_unusual() -> None:
    training = cloud(300)
    usual = training[:1]
    one, several = usual.copy(), usual.copy()
    one[0, 0] = 1e6
    several[0, [0, 1, 2]] = 5.0
    assert in_nats(training, several)[0] > in_nats(training, one)[0] > in_nats(training, usual)[0] == 0


def test_in_nats_a_row_scores_the_same_alone_and_in_any_order() -> None:
    training, rows = cloud(300), cloud(100, seed=5)
    together = in_nats(training, rows)
    assert np.array_equal(in_nats(training, rows[::-1]), together[::-1])
    assert np.array_equal(in_nats(training, rows[3:4]), together[3:4])
