from __future__ import annotations

import numpy as np
import pytest

from ai_detect.evaluation.metrics import curve, distinct_sessions, measure, measure_twice, recall_by_kind, unlabelled
from ai_detect.tables import ScoreTable, SequenceTable

LABELS = np.array([0, 0, 1, 0, 1, -1], np.int8)
SCORES = np.array([0.1, 0.2, 0.9, 0.6, 0.5, 0.99])


def sequences_of(*sessions: list[int]) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    events = np.array([event for session in sessions for event in session], np.int32)
    return SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32))


def test_figures_by_hand() -> None:
    figures = measure(LABELS, SCORES, SCORES >= 0.55)
    assert figures == {
        "auroc": pytest.approx(5 / 6),  # pairs of an anomaly and a normal session in the right order
        "auprc": pytest.approx((1 / 1 + 2 / 3) / 2),
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "fpr": pytest.approx(1 / 3),
        "best_f1": pytest.approx(2 * 2 / (2 + 3)),
    }


def test_constant_scores_are_worth_the_prevalence() -> None:
    figures = measure(LABELS, np.ones(6), np.ones(6, bool))
    assert figures["auroc"] == 0.5
    assert figures["auprc"] == pytest.approx(0.4)
    assert figures["fpr"] == 1


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_what_is_not_defined_is_none(label: int) -> None:
    figures = measure(np.full(4, label, np.int8), np.arange(4.0), np.zeros(4, bool))
    assert figures["auroc"] is None
    assert figures["best_f1"] is None
    assert figures["precision"] is None
    assert figures["f1"] == (0 if label == 1 else None)
    assert curve(np.full(4, label, np.int8), np.arange(4.0)) is None


def test_distinct_pairs_of_sequence_and_label() -> None:
    labels = np.array([0, 0, 1, 0], np.int8)
    distinct = distinct_sessions(sequences_of([1, 2], [1, 2], [1, 2], [2]), labels)
    assert distinct.tolist() == [0, 2, 3]
    twice = measure_twice(labels, np.array([0.0, 0, 1, 0]), labels == 1, distinct)
    assert twice["distinct"]["f1"] == twice["f1"] == 1


@pytest.mark.parametrize("share", [0.5, 0.002])
def test_curve_runs_from_no_recall_to_all_over_the_area_of_the_auprc(share: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < share).astype(np.int8)
    scores = rng.random(20_000) + 0.6 * labels
    points = curve(labels, scores)
    assert points is not None
    assert points["recall"][0] == 0
    assert points["recall"][-1] == 1
    assert (np.diff(points["recall"]) > 0).all()
    assert len(points["recall"]) == len(points["precision"]) <= 200
    area = np.diff(points["recall"]) @ points["precision"][1:]
    assert area == pytest.approx(measure(labels, scores, scores > 1)["auprc"], abs=0.005)


def test_recall_by_kind_of_anomaly() -> None:
    sequences = sequences_of([0, 9], [0], [0, 1], [0, 1, 1], [9])
    labels = np.array([1, 1, 1, 0, 0], np.int8)
    found = np.array([True, False, True, False, True])
    assert recall_by_kind(labels, found, sequences, n_known=5, shortest=2) == {
        "n_unseen_event": 1,
        "recall_unseen_event": 1.0,
        "n_shorter_than_training": 1,
        "recall_shorter_than_training": 0.0,
        "n_neither": 1,
        "recall_neither": 1.0,
    }


def table(p_values: np.ndarray) -> ScoreTable:
    return ScoreTable(1 - p_values, p_values, p_values < 0.01, 0.99, {}, {})


def test_without_labels_drift_is_told_from_none() -> None:
    rng = np.random.default_rng(0)
    same, moved = unlabelled(table(rng.random(5000))), unlabelled(table(rng.random(5000) ** 3))
    assert same["drift"] < 0.03
    assert moved["drift"] > 0.3
    assert same["share_p_10"] == pytest.approx(0.1, abs=0.02)
    assert moved["alarm_rate"] > same["alarm_rate"]
    assert unlabelled(table(np.zeros(0)))["n_sessions"] == 0
