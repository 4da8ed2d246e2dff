"""Headers read in compiled code: blocks of bytes become columns of messages, with the results of `MessageReader`.

Compiled code runs the layout's own pattern (byte_regex.py), finds the session key and takes it out of the text. It
knows no times and no levels of its own: it repeats what `TimeParser` and `LEVEL_INDEX` made of the line before where
nothing but the digits of the clock differ, and of a word that was seen before. Every other line (not ASCII, overlong,
without a header, with a new date, word or shape) goes through `LineTaker`, and is learned from.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ai_detect.config import InputSettings
from ai_detect.ingest.byte_dictionary import NO_ROOM, ByteDictionary, DictionaryArrays, number_of
from ai_detect.ingest.byte_regex import (
    GAVE_UP,
    NO_MATCH,
    Program,
    UnknownPattern,
    byte_pattern,
    match_at,
    search,
)
from ai_detect.ingest.compiled import any_bits, compiled, copy_bytes
from ai_detect.ingest.log_format import SYSLOG_LEVELS, LogFormat
from ai_detect.ingest.log_reader import LogSource, RawBlock, decode_line, log_series
from ai_detect.ingest.messages import (
    EMPTY_TEXT,
    MAX_TEXT_CHARS,
    PYTHON_FRAME,
    STACK_FRAME,
    LineTaker,
    MessageBatch,
    MessageReader,
)
from ai_detect.ingest.session_keys import SESSION_TOKEN
from ai_detect.ingest.timestamps import HALF_DAY, TimeShape, time_shape
from ai_detect.tables import NO_SESSION, NO_TIME, Int8Array, Int32Array, Int64Array

#: Longer lines are left to Python.
_LONGEST_LINE = 1 << 16
_LONGEST_KEY = 1 << 10
#: Messages with more bytes of continuation lines are left to Python.
_LONGEST_TAIL = MAX_TEXT_CHARS // 2
_MOST_LEVELS = 64
_LONGEST_LEVEL = 16
#: A text grows where its key, of one byte at least, becomes SESSION_TOKEN.
_GROWTH = len(SESSION_TOKEN)
_MOST_BURST = 64
#: Encodings in which a line of bytes below 128 is these characters.
_ASCII_BELOW_128 = ("utf-8", "ascii", "iso8859-1", "cp1252")
_ALL_READ, _LEFT, _FULL, _KEYS_FULL = range(4)
_NO_KEY, _KEY_BY_REGEX, _KEY_BY_FIELD, _KEY_GIVEN = range(4)

_IS_SPACE = np.array([byte < 128 and chr(byte).isspace() for byte in range(256)])
_IS_ALNUM = np.array([byte < 128 and chr(byte).isalnum() for byte in range(256)])
_TOKEN = np.frombuffer(SESSION_TOKEN.encode(), np.uint8).copy()
_EMPTY = np.frombuffer(EMPTY_TEXT.encode(), np.uint8).copy()


@dataclass(frozen=True)
class MessageBlock:
    """Neighbouring messages, of one file or of several; text i is `data[begins[i]:ends[i]]`, UTF-8 with surrogates
    passed.
    """

    offset: Int64Array  # bytes, in the decompressed file
    line: Int32Array  # first line, from 1
    timestamp: Int64Array  # ns since the epoch, UTC; NO_TIME where absent
    level: Int8Array  # index into tables.LEVELS
    session: Int32Array  # number of the key; NO_SESSION where there is none
    data: np.ndarray  # uint8
    begins: Int64Array
    ends: Int64Array

    def __len__(self) -> int:
        return len(self.offset)


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
    given: int  # the key of all lines


class Learned(NamedTuple):
    """What Python made of lines before."""

    time: TimeShape
    level_words: np.ndarray  # (n, _LONGEST_LEVEL) uint8
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
    begins: np.ndarray
    ends: np.ndarray
    data: np.ndarray
    used: np.ndarray


class State(NamedTuple):
    """Where reading stands."""

    row: np.ndarray  # (1,) int64, the next line of the block
    last_time: np.ndarray  # (1,) int64
    counts: np.ndarray  # (3,) int64: blank lines, messages earlier than the one before, continuation lines
    last_clock: np.ndarray  # (1,) int64, of the line before, where times are clocks without a date
    last_row: np.ndarray  # (1,) int64, the line of the last message
    words: np.ndarray  # (_LONGEST_KEY // 8,) uint64, for the key


def read_columns(reader: MessageReader, keys: ByteDictionary) -> Iterator[MessageBlock]:
    """All messages of all sources as columns, `reader`'s counters and files included; session keys are numbered in
    `keys`.

    Raises what iterating over the reader raises, and UnknownPattern before the first message where only Python can read
    this layout or find these keys.
    """
    return _ColumnReader(reader, keys).read()


class _ColumnReader:
    def __init__(self, reader: MessageReader, keys: ByteDictionary) -> None:
        if codecs.lookup(reader.settings.encoding).name not in _ASCII_BELOW_128:
            raise UnknownPattern(f"the encoding {reader.settings.encoding}")
        self._reader = reader
        self._keys = keys
        self._layout = _layout(reader.format, reader.settings)
        self._session_key = _session_key(reader.settings)
        self._learned = Learned(
            TimeShape.none(),
            np.zeros((_MOST_LEVELS, _LONGEST_LEVEL), np.uint8),
            np.zeros(_MOST_LEVELS, np.int64),
            np.zeros(_MOST_LEVELS, np.int8),
            np.zeros(1, np.int64),
        )
        self._columns = _columns(1 << 13, 1 << 20)
        self._given = b""  # the key of all lines of the file that is read
        self._file_begin = 0  # the first message of the file that is read
        self._tails = _tails(reader)
        self._state = State(
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            np.zeros(3, np.int64),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            np.zeros(_LONGEST_KEY // 8, np.uint64),
        )
        self._not_shown: bytes | None = None  # the last line that was read here, where Python does not know its clock

    def read(self) -> Iterator[MessageBlock]:
        reader = self._reader
        reader.begin()
        series: str | None = None
        scan = reader.new_scanner()
        for index, source in enumerate(reader.sources):
            if log_series(source.path) != series:
                series, scan = log_series(source.path), reader.new_scanner()
                self._learned = self._learned._replace(time=TimeShape.none())
                self._not_shown = None
            with reader.reading(source.path):
                yield from self._blocks(source, reader.line_taker(index, scan))
            self._file_begin = int(self._columns.used[0])
        if self._columns.used[0]:
            yield self._taken()
        reader.check_result()

    def _blocks(self, source: LogSource, taker: LineTaker) -> Iterator[MessageBlock]:
        counters, state = self._reader.counters, self._state
        session_key = self._session_key
        if session_key.kind == _KEY_GIVEN:
            # the number that the file's key gets with its first message, if there is one
            self._given = self._reader.file_key(source).encode("utf-8", "surrogatepass")
            session_key = session_key._replace(given=len(self._keys))
        state.last_time[0] = NO_TIME
        state.counts[:] = 0
        for block in self._reader.raw_blocks(source):
            yield from self._read_block(block, taker, session_key)
        self._take_back(taker)
        taker.close()
        self._put(taker)
        self._show_last(taker)
        counters.n_blank += int(state.counts[0])
        counters.n_out_of_order += int(state.counts[1])
        counters.n_continuation += int(state.counts[2])

    def _read_block(self, block: RawBlock, taker: LineTaker, session_key: SessionKey) -> Iterator[MessageBlock]:
        counters, state = self._reader.counters, self._state
        data = np.frombuffer(block.content, np.uint8)
        newlines = np.flatnonzero(data == 10)
        begins = np.concatenate([np.zeros(1, np.int64), newlines + 1])
        ends = np.append(newlines, len(data))
        state.row[0] = 0
        burst, taken_at = 1, -1
        while state.row[0] < len(begins):
            before = int(self._columns.used[0])
            status = _ALL_READ
            if not taker.is_joining:
                status = scan_lines(
                    data, begins, ends, block.offset, block.first_line, self._layout, session_key, self._learned,
                    self._keys.arrays, self._tails, self._columns, state,
                )  # fmt: skip
                n_new = int(self._columns.used[0]) - before
                if n_new:
                    if session_key.kind == _KEY_GIVEN:
                        self._keys.number(self._given)
                    counters.n_messages += n_new
                    taker.has_header = True
                    last = int(state.last_row[0])
                    self._not_shown = data[begins[last] : ends[last]].tobytes()
            if status == _KEYS_FULL:
                self._keys.grow()
            elif status == _FULL:
                yield from self._make_room(int((ends - begins).max()))
            elif state.row[0] < len(begins):
                row = int(state.row[0])
                burst = min(2 * burst, _MOST_BURST) if row == taken_at else 1
                taken_at = self._take(block, data, begins, ends, row, row + burst, taker)
                state.row[0] = taken_at
                yield from self._make_room(0)

    def _take(
        self,
        block: RawBlock,
        data: np.ndarray,
        begins: Int64Array,
        ends: Int64Array,
        row: int,
        stop: int,
        taker: LineTaker,
    ) -> int:
        """Take lines through Python from `row` on, until `stop` and as long as a message that has continuation lines
        goes on; returns the next.
        """
        self._take_back(taker)
        self._show_last(taker)
        taker.last_time = int(self._state.last_time[0])
        counters, state = self._reader.counters, self._state
        header: tuple[re.Match[str], int, int] | None = None  # the last, with its time and level
        while row < len(begins):
            raw = data[begins[row] : ends[row]].tobytes()
            number = block.first_line + row
            line, is_undecodable, is_truncated = decode_line(raw, block.encoding, block.offset + int(begins[row]) == 0)
            if row >= stop and not (taker.is_joining and self._goes_on(line)):
                taker.close()
                break
            counters.n_undecodable += is_undecodable
            counters.n_truncated += is_truncated
            attributes = taker.take(block.offset + int(begins[row]), number, line)
            if isinstance(attributes, re.Match):
                header = attributes, taker.batch.timestamp[-1], taker.batch.level[-1]
            row += 1
        if header is not None:
            self._learn(*header)
            state.last_clock[0] = self._learned.time.numbers[9]
        state.last_time[0] = taker.last_time
        if not taker.is_joining:
            self._put(taker)
        return row

    def _show_last(self, taker: LineTaker) -> None:
        """Bring the clock of Python up to the last line that was read here."""
        if self._not_shown is not None and self._learned.time.numbers[8]:
            taker.show(self._not_shown.decode().removesuffix("\r"))
        self._not_shown = None

    def _goes_on(self, line: str) -> bool:
        """Whether the message before this line does not end there."""
        pattern = self._reader.format.pattern
        return not line or line.isspace() or (pattern is not None and pattern.fullmatch(line) is None)

    def _learn(self, header: re.Match[str], timestamp: int, level: int) -> None:
        """Learn time and level of the last header that Python read."""
        learned, groups = self._learned, header.re.groupindex
        time = header[groups["time"]]
        self._learned = learned._replace(time=time_shape(time, timestamp))
        word = header["level"] if "level" in groups else None
        n = int(learned.n_levels[0])
        if word and word.isascii() and len(word) <= _LONGEST_LEVEL and n < _MOST_LEVELS:
            known = {learned.level_words[i, : learned.level_lengths[i]].tobytes() for i in range(n)}
            if word.encode() not in known:
                learned.level_words[n, : len(word)] = np.frombuffer(word.encode(), np.uint8)
                learned.level_lengths[n] = len(word)
                learned.level_index[n] = level
                learned.n_levels[0] = n + 1

    def _take_back(self, taker: LineTaker) -> None:
        """Give the last message back to Python: the next line may go on with it."""
        columns, batch = self._columns, taker.batch
        if batch.text or columns.used[0] == self._file_begin:
            return
        row = int(columns.used[0]) - 1
        begin, end, session = int(columns.begins[row]), int(columns.ends[row]), int(columns.session[row])
        batch.offset.append(int(columns.offset[row]))
        batch.line.append(int(columns.line[row]))
        batch.timestamp.append(int(columns.timestamp[row]))
        batch.level.append(int(columns.level[row]))
        key = None if session == NO_SESSION else self._keys[session].decode("utf-8", "surrogatepass")
        batch.session_key.append(key)
        batch.text.append(columns.data[begin:end].tobytes().decode("utf-8", "surrogatepass"))
        columns.used[:] = row, begin

    def _put(self, taker: LineTaker) -> None:
        """Put Python's messages into the columns."""
        batch = taker.batch
        if not batch.text:
            return
        taker.batch = MessageBatch(batch.source)
        texts = [text.encode("utf-8", "surrogatepass") for text in batch.text]
        n, n_bytes = (int(used) for used in self._columns.used)
        after, bytes_after = n + len(texts), n_bytes + sum(map(len, texts))
        columns = self._columns = _with_room(self._columns, after, bytes_after)
        columns.offset[n:after] = batch.offset
        columns.line[n:after] = batch.line
        columns.timestamp[n:after] = batch.timestamp
        columns.level[n:after] = batch.level
        columns.session[n:after] = [
            NO_SESSION if key is None else self._keys.number(key.encode("utf-8", "surrogatepass"))
            for key in batch.session_key
        ]
        ends = n_bytes + np.cumsum([len(text) for text in texts])
        columns.begins[n:after] = ends - [len(text) for text in texts]
        columns.ends[n:after] = ends
        columns.data[n_bytes:bytes_after] = np.frombuffer(b"".join(texts), np.uint8)
        columns.used[:] = after, bytes_after

    def _make_room(self, longest_line: int) -> Iterator[MessageBlock]:
        """Hand on what there is, but for the last message, where the columns are nearly full."""
        columns = self._columns
        n = int(columns.used[0])
        is_full = n + _MOST_BURST >= len(columns.offset) or columns.used[1] * 2 >= len(columns.data)
        if n > 1 and (is_full or longest_line):
            last = n - 1
            begin, end = int(columns.begins[last]), int(columns.ends[last])
            yield self._taken(last)
            new = self._columns
            for column, former in zip(new[:5], columns[:5], strict=True):
                column[0] = former[last]
            new.begins[0], new.ends[0] = 0, end - begin
            new.data[: end - begin] = columns.data[begin:end]
            new.used[:] = 1, end - begin
            self._file_begin = int(self._file_begin == n)
        needed = _GROWTH * (min(longest_line, _LONGEST_LINE) + 2 * MAX_TEXT_CHARS) + len(_EMPTY)
        self._columns = _with_room(self._columns, 2, int(self._columns.used[1]) + needed)

    def _taken(self, n: int | None = None) -> MessageBlock:
        """The first n messages of the columns, or all; the columns are empty then."""
        old = self._columns
        self._columns = _columns(len(old.offset), len(old.data))
        n = int(old.used[0]) if n is None else n
        if self._reader.has_keys:
            self._reader.counters.n_no_session += int(np.count_nonzero(old.session[:n] == NO_SESSION))
        return MessageBlock(
            old.offset[:n], old.line[:n], old.timestamp[:n], old.level[:n], old.session[:n], old.data, old.begins[:n],
            old.ends[:n],
        )  # fmt: skip


def _columns(n_rows: int, n_bytes: int) -> Columns:
    wide = [np.empty(n_rows, np.int64) for _ in range(4)]
    return Columns(
        wide[0], np.empty(n_rows, np.int32), wide[1], np.empty(n_rows, np.int8), np.empty(n_rows, np.int32),
        wide[2], wide[3], np.empty(n_bytes, np.uint8), np.zeros(2, np.int64),
    )  # fmt: skip


def _with_room(columns: Columns, n_rows: int, n_bytes: int) -> Columns:
    """The columns, or larger ones that hold the same where they are too small for so many rows and bytes."""
    if n_rows <= len(columns.offset) and n_bytes <= len(columns.data):
        return columns
    new = _columns(max(len(columns.offset), 2 * n_rows), max(len(columns.data), 2 * n_bytes))
    n, used_bytes = (int(used) for used in columns.used)
    for column, former in zip(new[:7], columns[:7], strict=True):
        column[:n] = former[:n]
    new.data[:used_bytes] = columns.data[:used_bytes]
    new.used[:] = columns.used
    return new


def _layout(layout: LogFormat, settings: InputSettings) -> Layout:
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


def _session_key(settings: InputSettings) -> SessionKey:
    pattern = byte_pattern(re.compile(settings.session_regex or ""))
    kind = _NO_KEY
    if settings.session_regex is not None:
        kind = _KEY_BY_REGEX
    elif settings.session_field is not None:
        kind = _KEY_BY_FIELD
    elif settings.session_by_file:
        kind = _KEY_GIVEN
    n_groups = len(pattern.program.captures) // 2 - 1
    return SessionKey(kind, pattern.program, pattern.first, pattern.is_anchored, n_groups, NO_SESSION)


def _tails(reader: MessageReader) -> Tails:
    return Tails(
        reader.settings.join_lines and reader.format.has_headers,
        byte_pattern(STACK_FRAME, groups=False).program,
        byte_pattern(PYTHON_FRAME, groups=False).program,
        np.zeros(_LONGEST_TAIL, np.uint8),
        np.zeros(MAX_TEXT_CHARS + _LONGEST_TAIL + _LONGEST_KEY + 1, np.uint8),
    )


@compiled
def _put_text(
    data: np.ndarray, begin: int, end: int, key_begin: int, key_end: int, begins_text: bool, out: np.ndarray, at: int
) -> int:
    """Write the text without its key, and without white space around it, at `out[at]`; returns where it ends.

    The key is none where it is empty; what becomes of it is what `session_keys.without_key` says.
    """
    first_out = at
    n_key = key_end - key_begin
    is_number = n_key > 0
    for i in range(key_begin, key_end):
        is_number = is_number and 48 <= data[i] <= 57
    skipped = begin
    if is_number and begins_text and end - begin >= n_key:
        same = True
        for i in range(n_key):
            same = same and data[begin + i] == data[key_begin + i]
        if same:
            skipped = begin + n_key
    while skipped < end and _IS_SPACE[data[skipped]]:
        skipped += 1
    if n_key == 0 or is_number:
        at += copy_bytes(data[skipped:end], out[at:])
    else:
        key, text = data[key_begin:key_end], data[begin:end]
        head, tail = key[0], key[n_key - 1]
        done = 0
        at_last = len(text) - n_key
        i = 0
        while i <= at_last:
            if text[np.uint64(i)] != head:
                i += 1
                continue
            found = True
            for j in range(1, n_key):
                if text[i + j] != key[j]:
                    found = False
                    break
            if not found:
                i += 1
                continue
            after = i + n_key
            inside = (_IS_ALNUM[head] and i > 0 and _IS_ALNUM[text[i - 1]]) or (
                _IS_ALNUM[tail] and after < len(text) and _IS_ALNUM[text[after]]
            )
            if inside:
                at += copy_bytes(text[done:after], out[at:])
            elif i == 0:
                while after < len(text) and _IS_SPACE[text[after]]:
                    after += 1
            else:
                at += copy_bytes(text[done:i], out[at:])
                at += copy_bytes(_TOKEN, out[at:])
            i = done = after
        at += copy_bytes(text[done:], out[at:])
        # white space before the text goes last, as it decides whether the key stands at the beginning
        blank = first_out
        while blank < at and _IS_SPACE[out[blank]]:
            blank += 1
        if blank > first_out:
            for i in range(blank, at):
                out[first_out + i - blank] = out[i]
            at -= blank - first_out
    while at > first_out and _IS_SPACE[out[at - 1]]:
        at -= 1
    if at == first_out:
        at += copy_bytes(_EMPTY, out[at:])
    return at


@compiled
def _time_of(
    data: np.ndarray,
    begin: int,
    end: int,
    text: np.ndarray,
    is_digit: np.ndarray,
    numbers: np.ndarray,
    last_clock: np.ndarray,
) -> int:
    """The time of a text that differs from the one learned in the digits of its clock alone; NO_TIME for another, and
    where a clock without a date falls back by half a day, which begins another day.
    """
    length = numbers[0]
    if length == 0 or end - begin != length:
        return NO_TIME
    for i in range(length):
        byte = data[begin + i]
        if is_digit[i]:
            if byte < 48 or byte > 57:
                return NO_TIME
        elif byte != text[i]:
            return NO_TIME
    hour, minute, second, fraction = begin + numbers[1], begin + numbers[2], begin + numbers[3], begin + numbers[4]
    hours = (data[hour] - 48) * 10 + data[hour + 1] - 48
    minutes = (data[minute] - 48) * 10 + data[minute + 1] - 48
    seconds = (data[second] - 48) * 10 + data[second + 1] - 48
    if hours > 24 or minutes > 59 or seconds > 60:
        return NO_TIME
    parts = 0
    for i in range(fraction, fraction + numbers[5]):
        parts = parts * 10 + data[i] - 48
    clock = np.int64(hours * 3600 + minutes * 60 + seconds) * 1_000_000_000 + np.int64(parts) * numbers[6]
    if numbers[8]:
        if clock < max(last_clock[0], numbers[9]) - HALF_DAY:
            return NO_TIME
        last_clock[0] = clock
    return int(numbers[7] + clock)


@compiled
def _key_in(
    code: np.ndarray,
    sets: np.ndarray,
    captures: np.ndarray,
    stack: np.ndarray,
    first: np.ndarray,
    is_anchored: bool,
    n_groups: int,
    data: np.ndarray,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Where the key stands that `session_keys.find_by_regex` finds in a line; (0, 0) for none, (GAVE_UP, 0)."""
    found, after = search(code, sets, captures, stack, first, is_anchored, data, begin, end)
    if found == GAVE_UP:
        return GAVE_UP, 0
    if found < 0:
        return 0, 0
    if n_groups == 0:
        return found, after
    for group in range(1, n_groups + 1):
        if captures[2 * group] >= 0:
            return captures[2 * group], captures[2 * group + 1]
    return 0, 0


@compiled
def _in_words(data: np.ndarray, begin: int, end: int, words: np.ndarray) -> None:
    """Pack bytes into words, the first byte lowest, the last word padded with zeros."""
    word = np.uint64(0)
    for i in range(end - begin):
        word |= np.uint64(data[begin + i]) << np.uint64(8 * (i & 7))
        if i & 7 == 7:
            words[i >> 3] = word
            word = np.uint64(0)
    if (end - begin) & 7:
        words[(end - begin) >> 3] = word


@compiled
def _joined(text: np.ndarray, lines: np.ndarray, out: np.ndarray) -> int:
    """Write a text and the lines after it with one blank for all white space; returns the length."""
    at = 0
    after_space = True
    for part in range(2):
        source = lines if part else text
        for i in range(len(source)):
            if _IS_SPACE[source[i]]:
                after_space = True
            else:
                if after_space and at > 0:
                    out[at] = 32
                    at += 1
                after_space = False
                out[at] = source[i]
                at += 1
    return at


@compiled
def scan_lines(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    offset: int,
    first_line: int,
    layout: Layout,
    session_key: SessionKey,
    learned: Learned,
    keys: DictionaryArrays,
    tails: Tails,
    columns: Columns,
    state: State,
) -> int:
    """Read lines from the state's row on into the columns.

    Returns _ALL_READ, _LEFT where the next line is for Python, _FULL where the columns or _KEYS_FULL where the
    dictionary of keys must grow before it. Where that shows in the middle of a message, all is put back as it was
    before its first line.
    """
    (
        (code, sets, captures, stack),
        is_plain,
        time_group,
        level_group,
        priority_group,
        content_group,
        key_group,
        syslog,
    ) = layout
    kind, (key_code, key_sets, key_captures, key_stack), key_first, is_anchored, n_groups, given = session_key
    slots, hashes, key_begins, key_lengths, key_words, n_keys = keys
    time_text, is_clock_digit, time_numbers = learned.time
    _, level_words, level_lengths, level_index, n_levels = learned
    joins, (f_code, f_sets, f_captures, f_stack), (p_code, p_sets, p_captures, p_stack), tail, scratch = tails
    out_offset, out_line, out_time, out_level, out_session, out_begin, out_end, out, used = columns
    state_row, state_time, state_counts, state_clock, state_last_row, words = state
    # as it was before the last message, where this call has read its first line
    message_row, message_bytes, message_time, message_clock, row_before = -1, 0, 0, 0, 0
    n_blank, n_early, n_continuation = 0, 0, 0
    in_tail, after_python_frame, n_tail = False, False, 0
    status = _ALL_READ
    row = state_row[0]
    while row < len(begins):
        begin, end = begins[row], ends[row]
        if end - begin > _LONGEST_LINE:
            status = _LEFT
            break
        if end > begin and data[end - 1] == 13:
            end -= 1
        if any_bits(data[begin:end]) >= 128:
            status = _LEFT
            break
        blank = begin
        while blank < end and _IS_SPACE[data[blank]]:
            blank += 1
        if blank == end:
            state_counts[0] += 1
            row += 1
            continue
        if used[0] >= len(out_offset) or used[1] + (end - begin + len(scratch)) * _GROWTH > len(out):
            status = _FULL
            break
        time, level = NO_TIME, np.int8(0)
        text_begin, text_end = begin, end
        if not is_plain:
            matched = match_at(code, sets, captures, stack, 0, data, begin, end, begin, True)
            if matched == NO_MATCH and joins and message_row >= 0:
                if not in_tail:
                    in_tail, after_python_frame, n_tail = True, False, 0
                state_counts[2] += 1
                last = used[0] - 1
                if kind == _KEY_BY_REGEX and out_session[last] == NO_SESSION:
                    key_begin, key_end = _key_in(
                        key_code, key_sets, key_captures, key_stack, key_first, is_anchored, n_groups, data, begin, end
                    )
                    if key_begin == GAVE_UP or key_end - key_begin > 8 * len(words):
                        status = _LEFT
                        break
                    if key_end > key_begin:
                        _in_words(data, key_begin, key_end, words)
                        session = number_of(
                            slots, hashes, key_begins, key_lengths, key_words, n_keys, words, key_end - key_begin
                        )
                        if session == NO_ROOM:
                            status = _KEYS_FULL
                            break
                        out_session[last] = session
                row += 1
                if after_python_frame and blank >= begin + 4 and any_bits(data[begin : begin + 4]) == 32:
                    after_python_frame = False  # the source line that Python shows below a frame
                    continue
                is_python = match_at(p_code, p_sets, p_captures, p_stack, 0, data, begin, end, begin, False)
                is_frame = match_at(f_code, f_sets, f_captures, f_stack, 0, data, begin, end, begin, False)
                after_python_frame = is_python >= 0
                if is_frame >= 0:
                    continue
                if is_python == GAVE_UP or is_frame == GAVE_UP or n_tail + end - begin + 1 > len(tail):
                    status = _LEFT
                    break
                tail[n_tail] = 32
                n_tail += 1 + copy_bytes(data[begin:end], tail[n_tail + 1 :])
                continue
            if matched < 0:
                status = _LEFT
                break
            if in_tail:
                last = used[0] - 1
                text = out[out_begin[last] : out_end[last]]
                if len(text) == len(_EMPTY) and text[0] == 60:  # <
                    is_empty = True
                    for i in range(len(_EMPTY)):
                        is_empty = is_empty and text[i] == _EMPTY[i]
                    if is_empty:
                        text = text[:0]
                n_joined = _joined(text, tail[:n_tail], scratch)
                n_key = 0
                if out_session[last] >= 0 and kind != _KEY_GIVEN:
                    n_key = key_lengths[out_session[last]]
                    key_word = key_begins[out_session[last]]
                    for i in range(n_key):
                        byte = key_words[key_word + (i >> 3)] >> np.uint64(8 * (i & 7))
                        scratch[n_joined + i] = np.uint8(byte & np.uint64(255))
                text_after = _put_text(scratch, 0, n_joined, n_joined, n_joined + n_key, False, out, out_begin[last])
                if text_after - out_begin[last] + n_joined > MAX_TEXT_CHARS:
                    status = _LEFT
                    break
                out_end[last] = used[1] = text_after
                in_tail = False
            clock_before = state_clock[0]
            time = _time_of(
                data, captures[2 * time_group], captures[2 * time_group + 1], time_text, is_clock_digit, time_numbers,
                state_clock,
            )  # fmt: skip
            if time == NO_TIME:
                status = _LEFT
                break
            if level_group >= 0 and captures[2 * level_group] >= 0:
                level_begin = captures[2 * level_group]
                length = captures[2 * level_group + 1] - level_begin
                known = -1
                for i in range(n_levels[0]):
                    if level_lengths[i] == length:
                        same = True
                        for j in range(length):
                            if level_words[i, j] != data[level_begin + j]:
                                same = False
                                break
                        if same:
                            known = i
                            break
                if known < 0:
                    status = _LEFT
                    break
                level = level_index[known]
            elif priority_group >= 0 and captures[2 * priority_group] >= 0:
                priority = 0
                for i in range(captures[2 * priority_group], captures[2 * priority_group + 1]):
                    priority = priority * 10 + data[i] - 48
                level = syslog[priority & 7]
            text_begin, text_end = captures[2 * content_group], captures[2 * content_group + 1]
        else:
            clock_before = state_clock[0]
        if text_end - text_begin > MAX_TEXT_CHARS:
            status = _LEFT
            break
        key_begin, key_end = 0, 0
        if kind == _KEY_BY_REGEX:
            key_begin, key_end = _key_in(
                key_code, key_sets, key_captures, key_stack, key_first, is_anchored, n_groups, data, begin, end
            )
        elif kind == _KEY_BY_FIELD and captures[2 * key_group] >= 0:
            key_begin, key_end = captures[2 * key_group], captures[2 * key_group + 1]
        session = NO_SESSION
        n_key = key_end - key_begin
        if key_begin == GAVE_UP or n_key > 8 * len(words):
            status = _LEFT
            break
        if kind == _KEY_GIVEN:
            session = given
        elif n_key > 0:
            _in_words(data, key_begin, key_end, words)
            session = number_of(slots, hashes, key_begins, key_lengths, key_words, n_keys, words, n_key)
            if session == NO_ROOM:
                status = _KEYS_FULL
                break
        begins_text = kind == _KEY_BY_REGEX and key_begin - begin == (end - begin) - (text_end - text_begin)
        text_at = used[1]
        text_after = _put_text(data, text_begin, text_end, key_begin, key_end, begins_text, out, text_at)
        if text_after - text_at + text_end - text_begin > MAX_TEXT_CHARS:  # it may be cut before blanks go
            status = _LEFT
            break
        message_row, message_bytes, message_time, message_clock = row, text_at, state_time[0], clock_before
        n_blank, n_early, n_continuation = state_counts[0], state_counts[1], state_counts[2]
        row_before = state_last_row[0]
        if time != NO_TIME:
            state_counts[1] += time < state_time[0]
            state_time[0] = time
        n = used[0]
        state_last_row[0] = row
        out_offset[n] = offset + begins[row]
        out_line[n] = first_line + row
        out_time[n] = time
        out_level[n] = level
        out_session[n] = session
        out_begin[n] = text_at
        out_end[n] = text_after
        used[0] = n + 1
        used[1] = text_after
        row += 1
    if in_tail:  # not to its end: it goes on in the next block, or only Python can join it
        status = _LEFT if status == _ALL_READ else status
        row = message_row
        used[0] -= 1
        used[1] = message_bytes
        state_time[0], state_clock[0], state_last_row[0] = message_time, message_clock, row_before
        state_counts[0], state_counts[1], state_counts[2] = n_blank, n_early, n_continuation
    state_row[0] = row
    return status
