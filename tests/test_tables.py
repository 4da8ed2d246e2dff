"""Tables refuse columns that do not fit, and index as their docstrings say."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.tables import NO_TIME, EventTable, SequenceTable, SessionTable, SourceSpan, StringColumn, ValueTable


def events(n: int = 4, **changes: object) -> EventTable:
    columns: dict[str, object] = {
        "offset": np.arange(n, dtype=np.int64),
        "line": np.array([1, 2, 5, 1][:n], dtype=np.int32),
        "timestamp": np.full(n, NO_TIME, dtype=np.int64),
        "event_id": np.zeros(n, np.int32),
        "session_id": np.full(n, -1, np.int32),
        "level": np.zeros(n, np.int8),
        "templates": ("a",),
        "n_known": 1,
        "session_keys": (),
        "sources": (SourceSpan("x.log", 0, 7, 70), SourceSpan("y.log", 3, 1, 9)),
    }
    return EventTable(**{**columns, **changes})  # type: ignore[arg-type]


def test_an_event_knows_its_file_and_last_line() -> None:
    table = events()
    assert [table.source_of(row).path for row in range(4)] == ["x.log", "x.log", "x.log", "y.log"]
    assert [table.last_line(row) for row in range(4)] == [1, 4, 7, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.zeros(4, np.int32)},
        {"line": np.zeros(3, np.int32)},
        {"event_id": np.ones(4, np.int32)},
        {"session_id": np.zeros(4, np.int32)},
        {"n_known": 2},
        {"values": ValueTable.none(3)},
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        events(**changes)


@pytest.mark.parametrize(
    ("offsets", "n_numbers", "n_keys"), [([0, 1], 2, 2), ([0, 2], 2, 1), ([0, 9], 9, 9), ([1, 2], 2, 2)]
)
def test_values_that_do_not_fit_are_refused(offsets: list[int], n_numbers: int, n_keys: int) -> None:
    with pytest.raises(ValueError):
        ValueTable(np.array(offsets, np.int64), np.zeros(n_numbers, np.float32), np.zeros(n_keys, np.int32))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_taken_values_are_those_of_the_events(counts: list[int], data: st.DataObject) -> None:
    offsets = np.cumsum([0, *counts]).astype(np.int64)
    keys = np.arange(offsets[-1], dtype=np.int32)
    table = ValueTable(offsets, keys.astype(np.float32), keys)
    assert table.event.tolist() == [event for event, n in enumerate(counts) for _ in range(n)]
    assert table.slot.tolist() == [slot for n in counts for slot in range(n)]
    number = st.integers(0, len(counts) - 1)
    begin, end = sorted((data.draw(number), data.draw(number)))
    for chosen in (list(range(begin, end + 1)), data.draw(st.lists(number, max_size=9))):
        taken = table.take(np.array(chosen, np.int64))
        assert np.diff(taken.offsets).tolist() == [counts[event] for event in chosen]
        assert taken.key.tolist() == [key for event in chosen for key in range(offsets[event], offsets[event + 1])]
        np.testing.assert_array_equal(taken.number, taken.key)


def test_session_offsets_must_cover_the_rows() -> None:
    with pytest.raises(ValueError, match="rise"):
        SessionTable(("a",), np.array([0, 2], np.int64), np.zeros(3, np.int64))


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8), st.data())
def test_take_gives_those_sessions_in_that_order(sessions: list[list[int]], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    ids = np.array([event for session in sessions for event in session], np.int32)
    table = SequenceTable(offsets, ids, np.full(len(ids), np.nan, np.float32))
    chosen = data.draw(st.lists(st.integers(0, len(sessions) - 1), min_size=1, max_size=6))
    taken = table.take(np.array(chosen, np.int64))
    assert [taken.session(i).tolist() for i in range(len(taken))] == [sessions[i] for i in chosen]


@given(st.lists(st.text(max_size=3), max_size=6))
def test_a_column_of_strings_is_their_list(strings: list[str]) -> None:
    column = StringColumn.of(iter(strings))
    assert list(column) == strings
    assert len(column) == len(strings)
    indices = range(-len(strings), len(strings))
    assert [column[i] for i in indices] == [strings[i] for i in indices]
    assert column[1::2] == tuple(strings[1::2])
    assert column[1:-1] == tuple(strings[1:-1])
    assert tuple(column.take(np.arange(len(strings))[::-1])) == tuple(reversed(strings))
    with pytest.raises(IndexError):
        column[len(strings)]


def test_a_column_of_long_strings_is_never_in_memory_as_a_whole() -> None:
    tracemalloc.start()
    try:
        column = StringColumn.of("x" * 100_000 for _ in range(300))
        n_characters = sum(map(len, column))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_characters == 30_000_000
    assert peak < 10_000_000


def test_a_column_of_strings_fits_its_text() -> None:
    for offsets in ([0, 2], [1, 3], [0, 2, 1, 3], []):
        with pytest.raises(ValueError, match="offsets"):
            StringColumn(np.frombuffer(b"abc", np.uint8), np.array(offsets, np.int64))


def test_a_column_of_strings_begins_no_string_within_a_character() -> None:
    content = np.frombuffer("aé".encode(), np.uint8)
    assert tuple(StringColumn(content, np.array([0, 1, 3, 3], np.int64))) == ("a", "é", "")
    for broken in (content, content[:2], content[::-1]):
        with pytest.raises(ValueError):
            StringColumn(np.ascontiguousarray(broken), np.array([0, 2, len(broken)], np.int64))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_taken_sessions_are_those_sessions(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    ids = np.arange(offsets[-1], dtype=np.int32)
    table = SequenceTable(offsets, ids, ids.astype(np.float32))
    number = st.integers(0, len(lengths) - 1)
    begin, end = sorted((data.draw(number), data.draw(number)))
    for chosen in (list(range(begin, end + 1)), data.draw(st.lists(number, max_size=9))):
        taken = table.take(np.array(chosen, np.int64))
        assert [taken.session(i).tolist() for i in range(len(taken))] == [table.session(i).tolist() for i in chosen]
        np.testing.assert_array_equal(taken.gap_s, taken.event_id.astype(np.float32))
