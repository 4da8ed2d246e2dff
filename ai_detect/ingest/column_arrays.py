"""The arrays that Python and compiled code share while headers are read (header_columns.py, line_scanner.py)."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ai_detect.config import InputSettings
from ai_detect.ingest.byte_machine import Program
from ai_detect.ingest.byte_regex import UnknownPattern, byte_pattern
from ai_detect.ingest.log_format import SYSLOG_LEVELS, LogFormat
from ai_detect.ingest.messages import MAX_TEXT_CHARS, PYTHON_FRAME, STACK_FRAME, MessageReader
from ai_detect.ingest.timestamps import TimeShape

LONGEST_KEY = 1 << 10
#: Messages with more bytes of continuation lines are left to Python.
_LONGEST_TAIL = MAX_TEXT_CHARS // 2
MOST_LEVELS = 64
LONGEST_LEVEL = 16
NO_KEY, KEY_BY_REGEX, KEY_BY_FIELD, KEY_GIVEN = range(4)


#: Columns of `Lines.files`: the row after its last, what is to be added to a place in the data and to a row to know the
#: byte and the line in the file, messages so far, bytes.
END, OFFSET, LINE, MESSAGES, BYTES = range(5)


class Lines(NamedTuple):
    """Whole lines for compiled code, of a part of a file or of several whole ones: line i is
    `data[bounds[i] + 1 : bounds[i + 1]]`. Eight bytes and more follow the last.
    """

    data: np.ndarray  # uint8
    shapes: np.ndarray  # uint8: the shapes of these bytes
    bounds: np.ndarray  # (lines + 1,) int64
    files: np.ndarray  # (n, 5) int64


class Layout(NamedTuple):
    """A layout for compiled code; groups by number, -1 for one that it lacks."""

    program: Program
    is_plain: bool
    time: int
    level: int
    priority: int
    content: int
    key: int
    syslog_levels: np.ndarray  # (8,) int8


class SessionKey(NamedTuple):
    """How a line's session key is found."""

    kind: int
    program: Program
    first: np.ndarray  # (256,) bool
    is_anchored: bool
    n_groups: int


class Learned(NamedTuple):
    """What Python made of lines before."""

    time: TimeShape
    level_words: np.ndarray  # (n, LONGEST_LEVEL) uint8
    level_lengths: np.ndarray  # (n,) int64
    level_index: np.ndarray  # (n,) int8
    n_levels: np.ndarray  # (1,) int64


class Tails(NamedTuple):
    """What continuation lines are made of: patterns of stack frames, and room for the lines of one message."""

    joins: bool  # whether there are any
    frame: Program
    python_frame: Program
    lines: np.ndarray  # uint8
    text: np.ndarray  # uint8


class Columns(NamedTuple):
    """Where messages are put; `used` counts messages and bytes of text."""

    offset: np.ndarray
    line: np.ndarray
    timestamp: np.ndarray
    level: np.ndarray
    session: np.ndarray
    shape: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    data: np.ndarray
    used: np.ndarray


class State(NamedTuple):
    """Where reading stands."""

    row: np.ndarray  # (1,) int64, the next line
    file: np.ndarray  # (1,) int64, the file that it is of
    given: np.ndarray  # (1,) int64, the key of all lines of this file
    last_time: np.ndarray  # (1,) int64
    counts: np.ndarray  # (3,) int64: blank lines, messages earlier than the one before, continuation lines
    last_clock: np.ndarray  # (1,) int64, of the line before, where times are clocks without a date
    last_row: np.ndarray  # (1,) int64, the line of the last message


def nothing_learned() -> Learned:
    """Room for what Python will make of lines."""
    return Learned(
        TimeShape.none(),
        np.zeros((MOST_LEVELS, LONGEST_LEVEL), np.uint8),
        np.zeros(MOST_LEVELS, np.int64),
        np.zeros(MOST_LEVELS, np.int8),
        np.zeros(1, np.int64),
    )


def first_state() -> State:
    """Where reading begins."""
    return State(*(np.zeros(n, np.int64) for n in (1, 1, 1, 1, 3, 1, 1)))


def empty_columns(n_rows: int, n_bytes: int) -> Columns:
    """Columns for so many messages and bytes of text."""
    wide = [np.empty(n_rows, np.int64) for _ in range(4)]
    return Columns(
        wide[0], np.empty(n_rows, np.int32), wide[1], np.empty(n_rows, np.int8), np.empty(n_rows, np.int32),
        np.empty(n_rows, np.int32), wide[2], wide[3], np.empty(n_bytes, np.uint8), np.zeros(2, np.int64),
    )  # fmt: skip


def with_room(columns: Columns, n_rows: int, n_bytes: int) -> Columns:
    """The columns, or larger ones that hold the same where they are too small for so many rows and bytes."""
    if n_rows <= len(columns.offset) and n_bytes <= len(columns.data):
        return columns
    new = empty_columns(max(len(columns.offset), 2 * n_rows), max(len(columns.data), 2 * n_bytes))
    n, used_bytes = (int(used) for used in columns.used)
    for column, former in zip(new[:8], columns[:8], strict=True):
        column[:n] = former[:n]
    new.data[:used_bytes] = columns.data[:used_bytes]
    new.used[:] = columns.used
    return new


def layout_of(layout: LogFormat, settings: InputSettings) -> Layout:
    """The layout for compiled code; raises UnknownPattern where only Python can read it."""
    levels = np.array(SYSLOG_LEVELS, np.int8)
    if layout.name == "plain":
        return Layout(byte_pattern(re.compile("")).program, True, -1, -1, -1, -1, -1, levels)
    pattern = layout.pattern
    if pattern is None or "status" in pattern.groupindex:
        raise UnknownPattern(f"the layout '{layout.name}' is read by Python alone")
    time, level, priority, content = (
        pattern.groupindex.get(name, -1) for name in ("time", "level", "priority", "content")
    )
    key = pattern.groupindex[settings.session_field] if settings.session_field is not None else -1
    # with a priority the level is not a word
    return Layout(
        byte_pattern(pattern).program, False, time, -1 if priority >= 0 else level, priority, content, key, levels
    )


def session_key_of(settings: InputSettings) -> SessionKey:
    """How these settings find a key; raises UnknownPattern where only Python can."""
    pattern = byte_pattern(re.compile(settings.session_regex or ""))
    kind = NO_KEY
    if settings.session_regex is not None:
        kind = KEY_BY_REGEX
    elif settings.session_field is not None:
        kind = KEY_BY_FIELD
    elif settings.session_by_file:
        kind = KEY_GIVEN
    n_groups = len(pattern.program.captures) // 2 - 1
    return SessionKey(kind, pattern.program, pattern.first, pattern.is_anchored, n_groups)


def tails_of(reader: MessageReader) -> Tails:
    """Room for continuation lines, and whether this reader has any."""
    return Tails(
        reader.settings.join_lines and reader.format.has_headers,
        byte_pattern(STACK_FRAME, groups=False).program,
        byte_pattern(PYTHON_FRAME, groups=False).program,
        np.zeros(_LONGEST_TAIL, np.uint8),
        np.zeros(MAX_TEXT_CHARS + _LONGEST_TAIL + LONGEST_KEY + 1, np.uint8),
    )
