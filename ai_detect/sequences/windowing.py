"""From events to sessions: by key, by number of lines, or by time; and the sequences that encoder and views see."""

from __future__ import annotations

import logging
import os
from itertools import pairwise
from typing import Literal

import numpy as np

from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.tables import NO_SESSION, NO_TIME, EventTable, Int64Array, SequenceTable, SessionTable

logger = logging.getLogger(__name__)


def make_sessions(events: EventTable, settings: InputSettings) -> SessionTable:
    """Group events into sessions as `settings.windowing` says; rows of a session are in input order.

    session: events of equal key, sessions in order of first appearance; lines without a key are left out.
    fixed, sliding: windows inside each file, named by file and lines, the last one as short as the rest is.
    time: windows that start at multiples of `window_seconds` since the epoch, over all files; an event without a time
    joins the window of the event before it. Raises DataError where no line has a time.
    """
    kind = settings.windowing
    if kind == "session":
        return _by_key(events)
    if kind == "time":
        return _by_time(events, settings.window_seconds)
    size = settings.window_size
    stride = size if kind == "fixed" else settings.stride or max(1, size // 2)
    return _by_count(events, size, stride)


def say_what_is_left_out(events: EventTable, sessions: SessionTable, settings: InputSettings) -> None:
    """Log where there are messages that no session holds."""
    if settings.windowing == "session" and len(sessions.rows) < len(events):
        n_left = len(events) - len(sessions.rows)
        logger.info("%d of %d messages have no session key and are left out", n_left, len(events))
    if settings.windowing == "sliding" and (settings.stride or 0) > settings.window_size:
        logger.warning(
            "--stride %d is larger than --window_size %d: the lines between windows are left out",
            settings.stride,
            settings.window_size,
        )


def to_sequences(events: EventTable, sessions: SessionTable) -> SequenceTable:
    """Event ids of every session and seconds since the event before it; a clock that steps back counts as 0 s."""
    times = events.timestamp[sessions.rows]
    gap_s = np.full(len(times), np.nan, np.float32)
    has_gap = np.zeros(len(times), np.bool_)
    has_gap[1:] = (times[1:] != NO_TIME) & (times[:-1] != NO_TIME)
    has_gap[sessions.offsets[:-1][np.diff(sessions.offsets) > 0]] = False
    later = np.flatnonzero(has_gap)
    gap_s[later] = np.maximum(times[later] - times[later - 1], 0) / 1e9
    return SequenceTable(sessions.offsets, events.event_id[sessions.rows], gap_s)


def distinct_sequences(sequences: SequenceTable) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Sessions that differ in their event ids: `first` (k,), `inverse` (n_sessions,), `counts` (k,), all int64.

    `first[i]` is the first session of the i-th distinct sequence, in order of appearance; `inverse` numbers every
    session's sequence.
    """
    content = np.ascontiguousarray(sequences.event_id).tobytes()
    bounds = (sequences.offsets * sequences.event_id.itemsize).tolist()
    numbers: dict[bytes, int] = {}
    inverse = np.array([numbers.setdefault(content[a:b], len(numbers)) for a, b in pairwise(bounds)], np.int64)
    _, first, counts = np.unique(inverse, return_index=True, return_counts=True)
    return first.astype(np.int64), inverse, counts.astype(np.int64)


def split_tail(events: EventTable, sessions: SessionTable, ratio: float) -> tuple[Int64Array, Int64Array]:
    """Sessions to train on, and the last `ratio` of them in time to validate on; int64 indices in order of time.

    Time is that of the first event, or the order in the input where one of these has no time. Sessions after the cut
    that share an event with one before it (overlapping windows) are in neither part.
    """
    first_rows = sessions.rows[sessions.offsets[:-1]]
    times = events.timestamp[first_rows]
    order = np.argsort(first_rows, kind="stable") if np.any(times == NO_TIME) else np.lexsort((first_rows, times))
    n_tail = min(max(round(len(order) * ratio), 1), len(order) - 1) if ratio > 0 and len(order) else 0
    head, tail = order[: len(order) - n_tail], order[len(order) - n_tail :]
    if len(sessions.rows) <= len(events):  # windows that overlap hold every event, and some twice
        return head, tail
    in_head = np.zeros(len(sessions), np.bool_)
    in_head[head] = True
    row_in_head = np.zeros(len(events), np.bool_)
    row_in_head[sessions.rows[np.repeat(in_head, np.diff(sessions.offsets))]] = True
    n_shared = np.concatenate([np.zeros(1, np.int64), np.cumsum(row_in_head[sessions.rows])])[sessions.offsets]
    return head, tail[np.diff(n_shared)[tail] == 0]


def _by_key(events: EventTable) -> SessionTable:
    rows = np.flatnonzero(events.session_id != NO_SESSION)
    keys, first, key_of_row = np.unique(events.session_id[rows], return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    return _sessions(
        [events.session_keys[key] for key in keys[by_appearance]],
        rows,
        np.argsort(by_appearance)[key_of_row],
        len(keys),
    )


def _by_time(events: EventTable, window_s: float) -> SessionTable:
    if not len(events):
        return _sessions([], np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    timed = np.flatnonzero(events.timestamp != NO_TIME)
    if not len(timed):
        raise DataError(
            "--window_type time: no line has a timestamp; use --window_type fixed, or name the layout with --log_format"
        )
    window_ns = max(1, round(window_s * 1e9))
    nearest = (
        np.searchsorted(timed, np.arange(len(events)), side="right") - 1
    )  # the event itself or the last one with a time
    windows, window_of_row = np.unique(
        events.timestamp[timed[np.maximum(nearest, 0)]] // window_ns, return_inverse=True
    )
    unit: Literal["s", "ns"] = "s" if window_ns % 1_000_000_000 == 0 else "ns"
    starts: list[str] = np.datetime_as_string((windows * window_ns).view("M8[ns]"), unit=unit).tolist()
    return _sessions([f"{start}Z" for start in starts], np.arange(len(events)), window_of_row, len(windows))


def _sessions(keys: list[str], rows: Int64Array, session_of_row: Int64Array, n_sessions: int) -> SessionTable:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(session_of_row, minlength=n_sessions))])
    return SessionTable(
        tuple(keys), offsets.astype(np.int64), rows[np.argsort(session_of_row, kind="stable")].astype(np.int64)
    )


def _by_count(events: EventTable, size: int, stride: int) -> SessionTable:
    bounds = [source.first_event for source in events.sources] + [len(events)]
    last_line = np.append(events.line[1:] - 1, 0).astype(np.int64)
    keys: list[str] = []
    pieces: list[tuple[Int64Array, Int64Array]] = []
    names = _short_names([source.path for source in events.sources])
    for source, name, begin, end in zip(events.sources, names, bounds[:-1], bounds[1:], strict=True):
        if begin == end:
            continue
        last_line[end - 1] = source.n_lines
        n_windows = 1 + max(0, -((size - (end - begin)) // stride))  # the last one begins before all events are covered
        starts = np.arange(begin, min(begin + n_windows * stride, end), stride, dtype=np.int64)
        ends = np.minimum(starts + size, end)
        lines = zip(events.line[starts].tolist(), last_line[ends - 1].tolist(), strict=True)
        keys += [f"{name}:{first}-{last}" for first, last in lines]
        pieces.append((starts, ends))
    starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in pieces)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(ends - starts for starts, ends in pieces)])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return SessionTable(tuple(keys), offsets, np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]))


def _short_names(paths: list[str]) -> list[str]:
    """The paths relative to the folder that they share, so that names differ wherever paths do."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath(folders) if folders else ""
    return [path if path == "-" else os.path.relpath(os.path.abspath(path), common) for path in paths]
