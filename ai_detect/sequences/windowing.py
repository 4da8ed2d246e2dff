"""From events to sessions: by key, by number of lines, or by time; and the sequences that encoder and views see."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np

from ai_detect import scratch
from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.tables import (
    NO_SESSION,
    NO_TIME,
    EventTable,
    Float32Array,
    Int32Array,
    Int64Array,
    SequenceTable,
    SessionTable,
    StringColumn,
    ragged_rows,
)

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
    rows, begins = sessions.rows, sessions.offsets

    def gaps(block: slice) -> Float32Array:
        first = max(block.start - 1, 0)
        times = events.timestamp[rows[first : block.stop]]
        gap_s = np.full(len(times), np.nan, np.float32)
        has_gap = np.zeros(len(times), np.bool_)
        has_gap[1:] = (times[1:] != NO_TIME) & (times[:-1] != NO_TIME)
        own = begins[np.searchsorted(begins, first) : np.searchsorted(begins, block.stop)]
        has_gap[own - first] = False
        later = np.flatnonzero(has_gap)
        gap_s[later] = np.maximum(times[later] - times[later - 1], 0) / 1e9
        return gap_s[block.start - first :]

    event_id = scratch.filled(len(rows), np.int32, lambda block: events.event_id[rows[block]])
    return SequenceTable(begins, event_id, scratch.filled(len(rows), np.float32, gaps))


def distinct_sequences(sequences: SequenceTable) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Sessions that differ in their event ids: `first` (k,), `inverse` (n_sessions,), `counts` (k,), all int64.

    `first[i]` is the first session of the i-th distinct sequence, in order of appearance; `inverse` numbers every
    session's sequence.
    """
    numbers: dict[bytes, int] = {}
    first: list[int] = []

    def numbered(block: slice) -> Int64Array:
        bounds = sequences.offsets[block.start : block.stop + 1]
        content = np.ascontiguousarray(sequences.event_id[bounds[0] : bounds[-1]]).tobytes()
        at = ((bounds - bounds[0]) * sequences.event_id.itemsize).tolist()
        found = [numbers.setdefault(content[a:b], len(numbers)) for a, b in pairwise(at)]
        for session, number in enumerate(found, start=block.start):
            if number == len(first):
                first.append(session)
        return np.array(found, np.int64)

    inverse = scratch.filled(len(sequences), np.int64, numbered)
    counts = np.zeros(len(first), np.int64)
    for block in scratch.blocks(len(inverse)):
        counts += np.bincount(inverse[block], minlength=len(first))
    return np.array(first, np.int64), inverse, counts


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
    n_keys = len(events.session_keys)
    first = scratch.filled(n_keys, np.int64, lambda block: np.full(block.stop - block.start, len(events)))
    for block in scratch.blocks(len(events)):
        met, rows = np.unique(events.session_id[block], return_index=True)
        rows, met = rows[met != NO_SESSION] + block.start, met[met != NO_SESSION]
        first[met] = np.minimum(first[met], rows)
    order = np.argsort(first, kind="stable")
    order = order[: np.searchsorted(first, len(events), sorter=order)]  # without keys of no message
    session_of_key = scratch.zeros(n_keys, np.int32)
    for block in scratch.blocks(len(order)):
        session_of_key[order[block]] = np.arange(block.start, block.stop, dtype=np.int32)

    def found(block: slice) -> tuple[Int64Array, Int32Array]:
        rows = np.flatnonzero(events.session_id[block] != NO_SESSION) + block.start
        return rows, session_of_key[events.session_id[rows]]

    keys = events.session_keys
    if not np.array_equal(order, np.arange(n_keys)):
        keys = (keys if isinstance(keys, StringColumn) else StringColumn.of(keys)).take(order)
    return SessionTable(keys, *scratch.grouped(len(keys), len(events), found))


def _by_time(events: EventTable, window_s: float) -> SessionTable:
    if not len(events):
        return SessionTable((), np.zeros(1, np.int64), np.zeros(0, np.int64))
    window_ns = max(1, round(window_s * 1e9))
    times = (events.timestamp[block] for block in scratch.blocks(len(events)))
    first = next((int(part[part != NO_TIME][0]) for part in times if (part != NO_TIME).any()), None)
    if first is None:
        raise DataError(
            "--window_type time: no line has a timestamp; use --window_type fixed, or name the layout with --log_format"
        )
    window = scratch.zeros(len(events), np.int64)
    windows, last = np.zeros(0, np.int64), first
    for block in scratch.blocks(len(events)):
        times_here = np.append(last, events.timestamp[block])
        # the event itself or the last one with a time
        nearest = np.maximum.accumulate(np.where(times_here != NO_TIME, np.arange(len(times_here)), 0))
        window[block] = times_here[nearest[1:]] // window_ns
        last = int(times_here[nearest[-1]])
        windows = np.union1d(windows, window[block])
    unit: Literal["s", "ns"] = "s" if window_ns % 1_000_000_000 == 0 else "ns"
    starts: list[str] = np.datetime_as_string((windows * window_ns).view("M8[ns]"), unit=unit).tolist()

    def found(block: slice) -> tuple[Int64Array, Int32Array]:
        return np.arange(block.start, block.stop), np.searchsorted(windows, window[block]).astype(np.int32)

    keys = StringColumn.of(f"{start}Z" for start in starts)
    return SessionTable(keys, *scratch.grouped(len(keys), len(events), found))


def _by_count(events: EventTable, size: int, stride: int) -> SessionTable:
    bounds = [source.first_event for source in events.sources] + [len(events)]
    starts, lengths = scratch.Growing(np.int64), scratch.Growing(np.int64)

    def names() -> Iterator[str]:
        """Of each window, whose begin and length are noted as well."""
        paths = _short_names([source.path for source in events.sources])
        for source, name, begin, end in zip(events.sources, paths, bounds[:-1], bounds[1:], strict=True):
            if begin == end:
                continue
            # the last one begins before all events are covered
            n_windows = 1 + max(0, -((size - (end - begin)) // stride))
            for block in scratch.blocks(n_windows):
                begins = begin + np.arange(block.start, block.stop, dtype=np.int64) * stride
                begins = begins[begins < end]
                ends = np.minimum(begins + size, end)
                last_line = np.where(
                    ends < end, events.line[np.minimum(ends, end - 1)].astype(np.int64) - 1, source.n_lines
                )
                starts.append(begins)
                lengths.append(ends - begins)
                for first, last in zip(events.line[begins].tolist(), last_line.tolist(), strict=True):
                    yield f"{name}:{first}-{last}"

    keys = StringColumn.of(names())
    first_rows, n_rows = starts.column(), lengths.column()
    offsets = scratch.offsets_of(n_rows)
    rows = scratch.Growing(np.int64)
    for block in scratch.blocks(len(first_rows), max(1, scratch.BLOCK_ROWS // size)):
        rows.append(ragged_rows(first_rows[block], n_rows[block]))
    return SessionTable(keys, offsets, rows.column())


def _short_names(paths: list[str]) -> list[str]:
    """The paths relative to the folder that they share, so that names differ wherever paths do."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath(folders) if folders else ""
    return [path if path == "-" else os.path.relpath(os.path.abspath(path), common) for path in paths]
