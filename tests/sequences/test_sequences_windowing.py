"""Events become sessions: every kind of window, names, gaps, distinct sequences, and the split in time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect import scratch
from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.sequences.windowing import (
    distinct_sequences,
    make_sessions,
    say_what_is_left_out,
    split_tail,
    to_sequences,
)
from ai_detect.tables import NO_TIME, EventTable, SequenceTable, SessionTable, SourceSpan

SECOND = 1_000_000_000


@pytest.fixture(autouse=True, scope="module", params=[None, 3])
def in_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test as it is, and with blocks that even short logs are cut into."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(scratch, "BLOCK_ROWS", request.param)
            patch.setattr(scratch, "_SHORT_BYTES", 8)
        yield


def events_of(
    session_id: list[int] | None = None,
    *,
    n: int | None = None,
    seconds: list[float | None] | None = None,
    event_id: list[int] | None = None,
    files: list[int] | None = None,
    lines_a_message: int = 1,
) -> EventTable:
    """`files`: number of events of each file."""
    n = n if n is not None else len(next(column for column in (session_id, seconds, event_id) if column is not None))
    files = files or [n]
    line = [1 + i * lines_a_message for length in files for i in range(length)]
    starts = np.cumsum([0, *files]).tolist()
    times = [NO_TIME if second is None else round(second * SECOND) for second in seconds or [None] * n]
    event_id = event_id or [0] * n
    session_id = session_id or [-1] * n
    return EventTable(
        offset=np.arange(n, dtype=np.int64),
        line=np.array(line, np.int32),
        timestamp=np.array(times, np.int64),
        event_id=np.array(event_id, np.int32),
        session_id=np.array(session_id, np.int32),
        level=np.zeros(n, np.int8),
        templates=tuple(f"t{i}" for i in range(max(event_id, default=0) + 1)),
        n_known=1,
        session_keys=tuple(f"k{i}" for i in range(max(session_id, default=0) + 1)),
        sources=tuple(
            SourceSpan(f"/logs/{'abcdef'[i]}.log", starts[i], length * lines_a_message, 0)
            for i, length in enumerate(files)
        ),
    )


def rows(sessions: SessionTable) -> list[list[int]]:
    return [sessions.rows_of(i).tolist() for i in range(len(sessions))]


def test_sessions_by_key_in_order_of_appearance() -> None:
    sessions = make_sessions(events_of([2, 0, -1, 2, 1, 0, 2]), InputSettings(session_regex="k"))
    assert tuple(sessions.keys) == ("k2", "k0", "k1")
    assert rows(sessions) == [[0, 3, 6], [1, 5], [4]]


def test_lines_without_a_key_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = InputSettings(session_regex="k")
    for keys, said in (([-1, -1], "2 of 2 messages"), ([0, -1], "1 of 2 messages"), ([0, 0], "")):
        events = events_of(keys)
        sessions = make_sessions(events, settings)
        assert len(sessions) == len({*keys} - {-1})
        caplog.clear()
        say_what_is_left_out(events, sessions, settings)
        assert (said in caplog.text) if said else not caplog.records


def test_fixed_windows_stay_in_their_file() -> None:
    events = events_of(n=9, files=[5, 0, 4], lines_a_message=2)
    sessions = make_sessions(events, InputSettings(window_size=2))
    assert rows(sessions) == [[0, 1], [2, 3], [4], [5, 6], [7, 8]]
    assert tuple(sessions.keys) == ("a.log:1-4", "a.log:5-8", "a.log:9-10", "c.log:1-4", "c.log:5-8")


def test_names_differ_where_paths_do() -> None:
    events = events_of(n=2, files=[1, 1])
    sources = (SourceSpan("/logs/x/app.log", 0, 1, 0), SourceSpan("/logs/y/app.log", 1, 1, 0))
    events = EventTable(**{**vars(events), "sources": sources})
    assert tuple(make_sessions(events, InputSettings()).keys) == ("x/app.log:1-1", "y/app.log:1-1")
    stdin = EventTable(**{**vars(events), "sources": (SourceSpan("-", 0, 2, 0),)})
    assert tuple(make_sessions(stdin, InputSettings()).keys) == ("-:1-2",)


@pytest.mark.parametrize(
    ("n", "size", "stride", "expected"),
    [
        (5, 4, None, [[0, 1, 2, 3], [2, 3, 4]]),
        (4, 4, 2, [[0, 1, 2, 3]]),
        (3, 4, 2, [[0, 1, 2]]),
        (6, 4, 1, [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]),
        (7, 2, 5, [[0, 1], [5, 6]]),
        (4, 2, 5, [[0, 1]]),
        (1, 1, None, [[0]]),
        (0, 4, 2, []),
    ],
)
def test_sliding_windows(n: int, size: int, stride: int | None, expected: list[list[int]]) -> None:
    settings = InputSettings(window_type="sliding", window_size=size, stride=stride)
    assert rows(make_sessions(events_of(n=n), settings)) == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 12), st.integers(1, 12))
def test_windows_cover_all_events_in_order(files: list[int], size: int, stride: int) -> None:
    events = events_of(n=sum(files), files=files)
    stride = min(size, stride)
    sessions = make_sessions(events, InputSettings(window_type="sliding", window_size=size, stride=stride))
    covered: set[int] = set()
    for window in rows(sessions):
        assert window == list(range(window[0], window[0] + len(window)))
        assert len({events.source_of(row).path for row in (window[0], window[-1])}) == 1
        assert len(window) <= size
        assert not set(window) <= covered  # a window of nothing new would only repeat
        covered |= set(window)
    assert covered == set(range(sum(files)))
    assert len(set(sessions.keys)) == len(sessions)


def test_time_windows() -> None:
    events = events_of(seconds=[None, 0, 299.9, None, 300, 900, 10, None])
    sessions = make_sessions(events, InputSettings(window_type="time"))
    assert tuple(sessions.keys) == ("1970-01-01T00:00:00Z", "1970-01-01T00:05:00Z", "1970-01-01T00:15:00Z")
    assert rows(sessions) == [[0, 1, 2, 3, 6, 7], [4], [5]]
    short = make_sessions(events_of(seconds=[-0.1, 0.25]), InputSettings(window_type="time", window_seconds=0.25))
    assert tuple(short.keys) == ("1969-12-31T23:59:59.750000000Z", "1970-01-01T00:00:00.250000000Z")


def test_time_windows_need_times() -> None:
    with pytest.raises(DataError, match="--window_type time"):
        make_sessions(events_of(n=3), InputSettings(window_type="time"))
    assert len(make_sessions(events_of(n=0), InputSettings(window_type="time"))) == 0


def test_sequences_and_gaps() -> None:
    events = events_of([0, 1, 0, 1, 0, 0], seconds=[0, 1, 1.5, None, 1, 3], event_id=[0, 1, 2, 3, 4, 5])
    sequences = to_sequences(events, make_sessions(events, InputSettings(session_regex="k")))
    assert sequences.session(0).tolist() == [0, 2, 4, 5]
    assert sequences.session(1).tolist() == [1, 3]
    np.testing.assert_array_equal(sequences.gap_s, np.array([np.nan, 1.5, 0, 2, np.nan, np.nan], np.float32))


def test_gaps_of_empty_sessions() -> None:
    events = events_of(seconds=[0, 1, 3])
    sessions = SessionTable(("a", "b", "c", "d"), np.array([0, 0, 2, 3, 3], np.int64), np.array([0, 1, 2], np.int64))
    assert np.isnan(to_sequences(events, sessions).gap_s).tolist() == [True, False, True]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=30))
def test_distinct_sequences(lists: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    ids = np.array([i for ids in lists for i in ids], np.int32)
    sequences = SequenceTable(offsets, ids, np.zeros(len(ids), np.float32))
    first, inverse, counts = distinct_sequences(sequences)
    assert {array.dtype for array in (first, inverse, counts)} == {np.dtype(np.int64)}
    assert len(first) == len(counts) == len({tuple(ids) for ids in lists})
    assert counts.sum() == len(lists)
    for i, ids_of_session in enumerate(lists):
        assert lists[first[inverse[i]]] == ids_of_session
        assert first[inverse[i]] <= i
    assert np.all(np.diff(first) > 0)


def split(events: EventTable, settings: InputSettings, ratio: float) -> tuple[list[int], list[int], SessionTable]:
    sessions = make_sessions(events, settings)
    head, tail = split_tail(events, sessions, ratio)
    assert head.dtype == tail.dtype == np.int64
    return head.tolist(), tail.tolist(), sessions


def test_the_tail_is_the_last_in_time() -> None:
    keyed = InputSettings(session_regex="k")
    assert split(events_of([0, 1, 2, 3, 4, 0]), keyed, 0.2)[:2] == ([0, 1, 2, 3], [4])
    assert split(events_of([0, 1, 2, 3], seconds=[9, 1, 2, 3]), keyed, 0.25)[:2] == ([1, 2, 3], [0])
    assert split(events_of([0, 1, 2, 3], seconds=[9, None, 2, 3]), keyed, 0.25)[:2] == ([0, 1, 2], [3])


def test_small_splits() -> None:
    keyed = InputSettings(session_regex="k")
    assert split(events_of([0]), keyed, 0.5)[:2] == ([0], [])
    assert split(events_of([0, 1]), keyed, 0.01)[:2] == ([0], [1])
    assert split(events_of([0, 1]), keyed, 0.99)[:2] == ([0], [1])
    assert split(events_of([0, 1]), keyed, 0.0)[:2] == ([0, 1], [])
    assert split(events_of(n=0), InputSettings(), 0.2)[:2] == ([], [])


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.9))
def test_no_event_is_on_both_sides(n: int, size: int, stride: int, ratio: float) -> None:
    settings = InputSettings(window_type="sliding", window_size=size, stride=stride)
    head, tail, sessions = split(events_of(n=n), settings, ratio)
    head_rows = {row for i in head for row in sessions.rows_of(i).tolist()}
    tail_rows = {row for i in tail for row in sessions.rows_of(i).tolist()}
    assert not head_rows & tail_rows
    assert len(head) >= min(1, len(sessions))
    if stride >= size:
        assert sorted(head + tail) == list(range(len(sessions)))
