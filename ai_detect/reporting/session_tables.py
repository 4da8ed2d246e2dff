"""Tables of sessions: scores.csv of detect and training_suspects.csv of train."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.spans import SessionSpans
from ai_detect.reporting.wording import decodable, rfc3339
from ai_detect.tables import BoolArray, EventTable, Float64Array, Int64Array, ScoreTable, SessionTable

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
#: What a csv writer must look at.
_NOT_PLAIN = re.compile(r"[\",\r\n]")


def scores_csv(sessions: SessionTable, spans: SessionSpans, scores: ScoreTable) -> Iterator[str]:
    """One row a session in input order, then each component's raw score; an absent time or score is an empty cell.

    The text comes in parts.
    """
    yield _csv([[*_HEAD, *scores.raw]])
    for block in scratch.blocks(len(sessions), _ROWS):
        columns = (
            _names(sessions.keys[block]),
            map(str, spans.first_line[block].tolist()),
            map(str, spans.last_line[block].tolist()),
            _texts(spans.start_time[block], partial(_moments, decimals=spans.start_decimals)),
            _texts(spans.end_time[block], partial(_moments, decimals=spans.end_decimals)),
            map(str, np.diff(sessions.offsets[block.start : block.stop + 1]).tolist()),
            map(repr, scores.score[block].tolist()),
            map(repr, scores.p_value[block].tolist()),
            ["1" if is_anomaly else "0" for is_anomaly in scores.is_anomaly[block].tolist()],
            *(_texts(column[block], _cells) for column in scores.raw.values()),
        )
        yield "".join([f"{','.join(row)}\n" for row in zip(*columns, strict=True)])


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


def _names(keys: Iterable[str]) -> list[str]:
    """Session keys as cells."""
    names = list(map(decodable, keys))
    if not _NOT_PLAIN.search("".join(names)):
        return names
    return [_csv([[name, ""]]).removesuffix(",\n") for name in names]


def _texts(column: np.ndarray, texts: Callable[[np.ndarray], list[str]]) -> list[str]:
    """The cells of 64-bit numbers, of equal ones made once."""
    distinct, inverse = np.unique(column.view(np.int64), return_inverse=True)
    cells: list[str] = np.array(texts(distinct.view(column.dtype)), object)[inverse].tolist()
    return cells


def _moments(times: Int64Array, decimals: int) -> list[str]:
    return [time or "" for time in rfc3339(times, decimals)]


def _cells(column: Float64Array) -> list[str]:
    return [f"{value:.9g}" if math.isfinite(value) else "" for value in column.tolist()]
