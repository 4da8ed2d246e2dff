"""How good scores are against labels, and what can be said of them without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ai_detect.tables import BoolArray, Float64Array, Int8Array, Int64Array, ScoreTable, SequenceTable

#: Points of a precision-recall curve that are kept.
_CURVE_POINTS = 200


def measure(labels: Int8Array, scores: Float64Array, is_anomaly: BoolArray) -> dict[str, float | None]:
    """Quality on the sessions that have a label (1 or 0): auroc, auprc, precision, recall, f1, fpr, best_f1.

    `auprc` is the average precision. `best_f1` is that of the best threshold in hindsight: an oracle figure, never to
    stand beside one at a threshold chosen without labels. None where a figure is undefined, as with one class only.
    """
    known = labels >= 0
    labels, scores, is_anomaly = labels[known], scores[known], is_anomaly[known]
    n_anomalies, n_normal = int((labels == 1).sum()), int((labels == 0).sum())
    caught, false_alarms = int((is_anomaly & (labels == 1)).sum()), int((is_anomaly & (labels == 0)).sum())
    both = n_anomalies > 0 and n_normal > 0
    return {
        "auroc": float(roc_auc_score(labels, scores)) if both else None,
        "auprc": float(average_precision_score(labels, scores)) if both else None,
        "precision": caught / (caught + false_alarms) if caught + false_alarms else None,
        "recall": caught / n_anomalies if n_anomalies else None,
        "f1": 2 * caught / (caught + false_alarms + n_anomalies) if n_anomalies else None,
        "fpr": false_alarms / n_normal if n_normal else None,
        "best_f1": _best_f1(labels, scores) if both else None,
    }


def measure_twice(
    labels: Int8Array, scores: Float64Array, is_anomaly: BoolArray, distinct: Int64Array
) -> dict[str, Any]:
    """`measure` on all sessions, and under `distinct` once more on those of `distinct_sessions`."""
    of_distinct = measure(labels[distinct], scores[distinct], is_anomaly[distinct])
    return {**measure(labels, scores, is_anomaly), "distinct": of_distinct}


def distinct_sessions(sequences: SequenceTable, labels: Int8Array) -> Int64Array:
    """The first session of every distinct pair of event sequence and label, ascending."""
    seen: dict[tuple[bytes, int], int] = {}
    for session, label in enumerate(labels.tolist()):
        seen.setdefault((sequences.session(session).tobytes(), label), session)
    return np.array(list(seen.values()), np.int64)


def curve(labels: Int8Array, scores: Float64Array) -> dict[str, list[float]] | None:
    """Precision and recall over all thresholds, recall rising from 0 to 1; None with one class.

    Of the thresholds of one recall the best is kept, and of the recalls some hundred, spread evenly: as steps, each
    precision from the recall before to its own, the curve has the area of `auprc`.
    """
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return None
    falling_precision, falling_recall, _ = precision_recall_curve(labels[known], scores[known])
    recall, first = np.unique(falling_recall[::-1], return_index=True)
    precision = falling_precision[::-1][first]
    some = np.unique(np.linspace(0, len(recall) - 1, _CURVE_POINTS).astype(np.int64))
    return {"precision": precision[some].tolist(), "recall": recall[some].tolist()}


def recall_by_kind(
    labels: Int8Array, is_anomaly: BoolArray, sequences: SequenceTable, n_known: int, shortest: int
) -> dict[str, float | int | None]:
    """Anomalies and recall: with an event unknown to training, else shorter than all of training, else neither."""
    lengths = sequences.lengths
    session = np.repeat(np.arange(len(sequences)), lengths)
    unseen = np.bincount(session[sequences.event_id >= n_known], minlength=len(sequences)) > 0
    short = ~unseen & (lengths < shortest)
    kinds = {"unseen_event": unseen, "shorter_than_training": short, "neither": ~unseen & ~short}
    figures: dict[str, float | int | None] = {}
    for kind, members in kinds.items():
        anomalies = members & (labels == 1)
        figures[f"n_{kind}"] = int(anomalies.sum())
        figures[f"recall_{kind}"] = float(is_anomaly[anomalies].mean()) if anomalies.any() else None
    return figures


def unlabelled(scores: ScoreTable) -> Mapping[str, float]:
    """What can be said without labels: how many alarms there are, and whether the log still looks like training.

    On a log like the training log, one session in ten has a p-value of .1 or less (`share_p_10`), and one in a hundred
    of .01 or less; `drift` is the largest excess of the p-values' distribution over that of training (one-sided
    Kolmogorov-Smirnov distance, 0 to 1).
    """
    n = len(scores)
    p_values = np.sort(scores.p_value)
    excess = np.arange(1, n + 1) / max(n, 1) - p_values
    return {
        "n_sessions": n,
        "n_alarms": int(scores.is_anomaly.sum()),
        "alarm_rate": float(scores.is_anomaly.mean()) if n else 0.0,
        "share_p_10": float((p_values <= 0.1).mean()) if n else 0.0,
        "share_p_1": float((p_values <= 0.01).mean()) if n else 0.0,
        "drift": float(excess.max(initial=0.0)),
    }


def _best_f1(labels: Int8Array, scores: Float64Array) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())
