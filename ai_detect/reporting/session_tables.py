"""Tables of sessions: scores.csv of detect and training_suspects.csv of train."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.spans import SessionSpans
from ai_detect.reporting.wording import decodable, rfc3339
from ai_detect.tables import BoolArray, EventTable, Float64Array, ScoreTable, SessionTable

_HEAD = (
    "session",
    "first_line",
    "last_line",
    "start_time",
    "end_time",
    "n_events",
    "score",
    "p_value",
    "is_anomaly",
)
#: Rows that are made at once; only memory depends on it.
_ROWS = 1 << 13


def scores_csv(sessions: SessionTable, spans: SessionSpans, scores: ScoreTable) -> Iterator[str]:
    """One row a session in input order, then each component's raw score; an absent time or score is an empty cell.

    The text comes in parts.
    """
    yield _csv([[*_HEAD, *scores.raw]])
    for block in scratch.blocks(len(sessions), _ROWS):
        yield _csv(
            zip(
                map(decodable, sessions.keys[block]),
                spans.first_line[block].tolist(),
                spans.last_line[block].tolist(),
                spans.starts(block),
                spans.ends(block),
                np.diff(sessions.offsets[block.start : block.stop + 1]).tolist(),
                scores.score[block].tolist(),
                scores.p_value[block].tolist(),
                scores.is_anomaly[block].astype(np.int64).tolist(),
                *(map(_cell, column[block].tolist()) for column in scores.raw.values()),
                strict=True,
            )
        )


def suspects_csv(
    events: EventTable,
    sessions: SessionTable,
    spans: SessionSpans,
    suspected: BoolArray,
    suspicion: Float64Array,
    learned_from: BoolArray,
) -> str:
    """One row a suspected training session, the most suspicious first.

    `suspected` and `learned_from` (n_sessions,), `suspicion` (n_suspected,) the -ln p of the suspected ones in their
    order, by detectors that did not know them.
    """
    order = np.argsort(-suspicion, kind="stable")
    worst = np.flatnonzero(suspected)[order]
    head = ["session", "file", "first_line", "last_line", "start_time", "suspicion_nats", "learned_from"]
    rows = zip(
        [decodable(sessions.keys[session]) for session in worst.tolist()],
        [decodable(events.sources[source].path) for source in spans.source[worst].tolist()],
        spans.first_line[worst].tolist(),
        spans.last_line[worst].tolist(),
        rfc3339(spans.start_time[worst]),
        [f"{nats:.6g}" for nats in suspicion[order].tolist()],
        ["yes" if is_known else "no" for is_known in learned_from[worst].tolist()],
        strict=True,
    )
    return _csv([head]) + _csv(rows)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> str:
    return f"{value:.9g}" if np.isfinite(value) else ""
