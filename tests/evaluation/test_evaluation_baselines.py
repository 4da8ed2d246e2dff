from __future__ import annotations

import numpy as np

from ai_detect.evaluation.baselines import count_vectors, run_baselines
from ai_detect.tables import SequenceTable


def sequences_of(sessions: list[list[int]]) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    events = np.array([event for session in sessions for event in session], np.int32)
    return SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32))


TRAIN = sequences_of([[0, 1, 2], [0, 1, 1, 2], [0, 1, 1, 1, 2]] * 20)
SAME, NEW, LONG, SHORT, SWAPPED = range(5)
TEST = sequences_of([[0, 1, 2], [0, 7, 2], [0] + [1] * 9 + [2], [0], [2, 1, 0]])


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
