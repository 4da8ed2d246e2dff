"""Columns in files are those in memory, whatever the size of the blocks, and a full disk is said so."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect import scratch
from ai_detect.errors import DataError


@pytest.fixture(autouse=True, scope="module", params=[1 << 20, 8])
def shortest(request: pytest.FixtureRequest) -> Iterator[None]:
    """Columns in memory, and the same in files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "_SHORT_BYTES", request.param)
        patch.setattr(scratch, "BLOCK_ROWS", 3)
        yield


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=9))
def test_a_growing_column_holds_what_was_appended(parts: list[list[int]]) -> None:
    growing = scratch.Growing(np.int32)
    for part in parts:
        growing.append(np.array(part, np.int64))
    column = growing.column()
    scratch.let_go()
    assert column.dtype == np.int32
    assert column.tolist() == [value for part in parts for value in part]


@given(st.lists(st.integers(0, 9), max_size=40))
def test_columns_are_made_block_by_block(counts: list[int]) -> None:
    column = scratch.filled(len(counts), np.int8, lambda block: np.array(counts[block]))
    assert column.tolist() == counts
    offsets = scratch.offsets_of(column)
    scratch.let_go()
    assert offsets.tolist() == np.cumsum([0, *counts]).tolist()


@given(st.lists(st.integers(-1, 4), max_size=40))
def test_rows_are_grouped_in_their_order(groups: list[int]) -> None:
    of_row = np.array(groups, np.int64)

    def found(block: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(of_row[block] >= 0) + block.start
        return rows, of_row[rows]

    offsets, rows = scratch.grouped(5, len(groups), found)
    assert [rows[a:b].tolist() for a, b in pairwise(offsets)] == [
        np.flatnonzero(of_row == group).tolist() for group in range(5)
    ]


def test_what_was_let_go_is_still_there_and_can_be_changed() -> None:
    column = scratch.zeros(100, np.int64)
    for value in range(3):
        column[value::3] = value
        scratch.let_go()
    assert column.tolist() == [row % 3 for row in range(100)]


def test_a_full_disk_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch, "_SHORT_BYTES", 8)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match=r"No space left on device.*set TMPDIR"):
        scratch.zeros(100, np.int64)
    with pytest.raises(DataError, match="set TMPDIR"):
        scratch.Growing(np.int64).append(np.zeros(100))


def test_only_a_lack_of_room_is_answered_with_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(scratch, "_SHORT_BYTES", 8)
    monkeypatch.setattr(tempfile, "TemporaryFile", no_more_files)
    with pytest.raises(DataError, match="Too many open files") as raised:
        scratch.zeros(100, np.int64)
    assert "room" not in str(raised.value)


def test_without_any_temporary_folder_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_SHORT_BYTES", 8)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nothing"])
    for make in (lambda: scratch.zeros(100, np.int64), lambda: scratch.Growing(np.int64).append(np.zeros(100))):
        with pytest.raises(DataError, match="set TMPDIR to a writable folder"):
            make()
