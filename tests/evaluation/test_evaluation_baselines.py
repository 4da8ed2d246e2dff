from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from ai_detect.evaluation.baselines import count_vectors, run_baselines
from ai_detect.tables import SequenceTable


def sequences_of(sessions: list[list[int]]) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    events = np.array([event for session in sessions for event in session], np.int32)
    return SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32))


TRAIN = sequences_of([[0, 1, 2], [0, 1, 1, 2], [0, 1, 1, 1, 2]] * 20)
SAME, NEW, LONG, SHORT, SWAPPED = range(5)
TEST_SESSIONS = [[0, 1, 2], [0, 7, 2], [0] + [1] * 9 + [2], [0], [2, 1, 0]]
TEST = sequences_of(TEST_SESSIONS)


def test_each_baseline_sees_what_its_name_says() -> None:
    alarms = {name: np.flatnonzero(run.is_anomaly).tolist() for name, run in run_baselines(TRAIN, TEST).items()}
    assert alarms["flag_all"] == [SAME, NEW, LONG, SHORT, SWAPPED]
    assert alarms["new_event"] == [NEW]
    assert alarms["length"] == [LONG, SHORT]
    assert alarms["event_length"] == [NEW, LONG, SHORT]
    assert alarms["2gram"] == [NEW, SWAPPED]
    assert alarms["ecvc"] == alarms["knn1_uniq"] == [NEW, LONG, SHORT]
    assert NEW in alarms["ecod"]
    assert SAME not in alarms["ecod"]


def test_scores_are_finite_and_of_the_test_sessions() -> None:
    for run in run_baselines(TRAIN, TEST).values():
        assert run.scores.shape == run.is_anomaly.shape == (5,)
        assert np.isfinite(run.scores).all()


def test_unseen_events_share_the_last_column() -> None:
    assert count_vectors(TRAIN, TEST)[NEW].tolist() == [1, 0, 1, 1]
    assert count_vectors(TRAIN, sequences_of([[9, 9, 8]])).tolist() == [[0, 0, 0, 3]]


def test_one_training_session_is_enough() -> None:
    for run in run_baselines(sequences_of([[0, 1, 2]]), TEST).values():
        assert np.isfinite(run.scores).all()


def test_local_outlier_factors_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    sessions = [rng.integers(0, 9, length).tolist() for length in rng.integers(50, 300, 200)]
    train, test = sequences_of(sessions + sessions[:60] + sessions[:3] * 10), sequences_of(sessions[:9] + TEST_SESSIONS)
    known, vectors = np.log1p(count_vectors(train, train)), np.log1p(count_vectors(train, test))
    assert len(np.unique(known, axis=0)) < len(known)
    peer = LocalOutlierFactor(n_neighbors=20, algorithm="ball_tree", novelty=True).fit(known)
    assert run_baselines(train, test)["lof20"].scores == pytest.approx(-peer.score_samples(vectors), rel=1e-6)


def test_local_density_counts_sessions_as_often_as_they_are() -> None:
    """A group of three is a group beside one like it, and far from everything beside hundreds of others."""
    few, many = [[0, 1, 1, 1, 1, 1, 1, 2]] * 3, [[0, 1, 2], [0, 1, 1, 2]]
    test = sequences_of([[0, 1, 2], few[0]])
    beside_few = run_baselines(sequences_of(few + many), test)["lof20"].scores
    beside_many = run_baselines(sequences_of(few + many * 100), test)["lof20"].scores
    assert beside_few[1] < 2
    assert beside_many[1] > 1e3
    assert beside_many[0] == pytest.approx(1)


def test_residual_is_what_no_main_component_explains() -> None:
    rng = np.random.default_rng(0)
    sessions = [[0] * int(n) + [1] * int(n) + [2] for n in rng.integers(1, 9, 200)]
    sessions[::50] = [[*session, 0] for session in sessions[::50]]  # some variance beside, less than 5 % of it
    follows, breaks = [0] * 20 + [1] * 20 + [2], [0] * 4 + [1] + [2]
    residual = run_baselines(sequences_of(sessions), sequences_of([follows, breaks, [0, 1, 2]]))["pca_spe"]
    expected = np.log(5 / 2) ** 2 / 2  # distance of (log 5, log 2) from the diagonal, squared
    assert residual.scores == pytest.approx([0, expected, 0], abs=0.01)
    assert residual.is_anomaly.tolist() == [False, True, False]


def test_what_rounding_leaves_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    train = sequences_of([[0] * int(n) + [1] * int(n) + [2] for n in rng.integers(1, 9, 200)])
    residual = run_baselines(train, sequences_of([[0] * 20 + [1] * 20 + [2], [0, 1, 2]]))["pca_spe"]
    assert not residual.scores.any()
    assert not residual.is_anomaly.any()


def test_only_the_forest_depends_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    train = sequences_of([rng.integers(0, 5, length).tolist() for length in rng.integers(2, 30, 100)])
    first, second = (run_baselines(train, TEST, seed=seed) for seed in (0, 1))
    changed = [name for name in first if not np.array_equal(first[name].scores, second[name].scores)]
    assert changed == ["iforest"]
