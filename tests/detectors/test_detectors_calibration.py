from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.detectors.calibration import TailCalibration

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(SCORES, st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=20))
def test_never_falls_with_the_score_and_is_a_probability(training: list[float], queries: list[float]) -> None:
    calibration = TailCalibration.fit(np.array(training))
    surprisal = calibration.surprisal(np.sort(np.array(queries)))
    assert (np.diff(surprisal) >= 0).all()
    assert (surprisal >= 0).all()
    assert np.isfinite(surprisal).all()


def test_p_values_count_the_sessions_at_least_as_high() -> None:
    p = np.exp(-TailCalibration.fit(np.array([0.0, 0.0, 0.0, 1.0, 2.0])).surprisal(np.array([-5.0, 0, 1, 2])))
    assert p == pytest.approx([1, 6 / 6, 3 / 6, 2 / 6])


def test_p_values_are_honest_on_new_sessions() -> None:
    rng = np.random.default_rng(0)
    calibration = TailCalibration.fit(rng.gamma(2, size=5000))
    p = np.exp(-calibration.surprisal(rng.gamma(2, size=20_000)))
    for level in (0.5, 0.1, 0.01, 0.001):
        assert (p <= level).mean() == pytest.approx(level, rel=0.4)


def test_order_survives_beyond_the_training_range() -> None:
    calibration = TailCalibration.fit(np.random.default_rng(0).normal(size=500))
    far = calibration.surprisal(np.array([5.0, 6, 10, 100, 1e4, 1e8]))
    assert (np.diff(far) > 0).all()


def test_weights_stand_for_repeated_scores() -> None:
    values, weights = np.array([0.0, 1.0, 3.0, 4.0]), np.array([50.0, 30, 15, 5])
    repeated = TailCalibration.fit(np.repeat(values, weights.astype(int)))
    weighted = TailCalibration.fit(values, weights)
    queries = np.linspace(-1, 9, 40)
    assert weighted.surprisal(queries) == pytest.approx(repeated.surprisal(queries))


def test_thinning_keeps_the_tail() -> None:
    scores = np.random.default_rng(0).exponential(size=100_000)
    calibration = TailCalibration.fit(scores)
    top = np.sort(scores)[-10:]
    assert len(calibration.values) <= 4096
    assert np.exp(-calibration.surprisal(top)) == pytest.approx(np.arange(11, 1, -1) / 100_001)
    assert np.exp(-calibration.surprisal(np.quantile(scores, [0.2, 0.9]))) == pytest.approx([0.8, 0.1], rel=0.01)


@given(SCORES)
def test_state_round_trip(training: list[float]) -> None:
    calibration = TailCalibration.fit(np.array(training))
    again = TailCalibration.from_state(calibration.state())
    queries = np.linspace(-2e6, 2e6, 50)
    assert np.array_equal(again.surprisal(queries), calibration.surprisal(queries))


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        TailCalibration.fit(np.zeros(0))
    with pytest.raises(ValueError, match="finite"):
        TailCalibration.fit(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="of a calibration"):
        TailCalibration.from_state({"values": np.zeros(2), "surprisals": np.zeros(3), "tail": np.ones(2)})


def test_what_lies_beyond_the_bulk_does_not_make_its_like_usual() -> None:
    bulk = np.random.default_rng(0).exponential(size=1000)
    dirty = np.concatenate([bulk, np.full(40, 30.0)])
    query = np.array([29.0])
    assert TailCalibration.fit(dirty).surprisal(query)[0] < 4
    assert TailCalibration.fit_bulk(dirty).surprisal(query)[0] > 10
    below = np.quantile(bulk, [0.1, 0.5, 0.9])
    assert TailCalibration.fit_bulk(bulk).surprisal(below) == pytest.approx(TailCalibration.fit(bulk).surprisal(below))


def test_a_bulk_of_hardly_any_width_stays_finite() -> None:
    scores = np.concatenate([np.zeros(900), np.full(100, 1e-9)])
    assert TailCalibration.fit_bulk(scores).surprisal(np.array([1.0]))[0] < 60
