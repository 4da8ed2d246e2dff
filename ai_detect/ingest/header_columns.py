"""Headers read in compiled code: blocks of bytes become columns of messages, with the results of `MessageReader`.

Compiled code (line_scanner.py) runs the layout's own pattern, finds the session key and takes it out of the text. It
knows no times and no levels of its own: it repeats what `TimeParser` and `LEVEL_INDEX` made of the line before where
nothing but the digits of the clock differ, and of a word that was seen before. Every other line (not ASCII, overlong,
without a header, with a new date, word or shape) goes through `LineTaker`, and is learned from.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.byte_machine import Program
from ai_detect.ingest.byte_regex import UnknownPattern
from ai_detect.ingest.byte_shapes import NO_SHAPE
from ai_detect.ingest.byte_texts import EMPTY, GROWTH
from ai_detect.ingest.column_arrays import (
    KEY_BY_REGEX,
    KEY_GIVEN,
    LONGEST_LEVEL,
    MOST_LEVELS,
    SessionKey,
    emptied_columns,
    empty_columns,
    first_state,
    layout_of,
    nothing_learned,
    session_key_of,
    tails_of,
    with_room,
)
from ai_detect.ingest.line_scanner import ALL_READ, FULL, KEYS_FULL, LONGEST_LINE, scan_lines
from ai_detect.ingest.line_shapes import LineShapes, empty_line_shapes, forget_line_shapes
from ai_detect.ingest.log_reader import RawBlock, decode_line
from ai_detect.ingest.log_sources import LogSource, log_series
from ai_detect.ingest.messages import MAX_TEXT_CHARS, LineTaker, MessageBatch, MessageReader
from ai_detect.ingest.timestamps import TimeShape, time_shape
from ai_detect.tables import NO_SESSION, NO_TIME, Int8Array, Int32Array, Int64Array

_MOST_BURST = 64
#: Encodings in which a line of bytes below 128 is these characters.
_ASCII_BELOW_128 = ("utf-8", "ascii", "iso8859-1", "cp1252")


@dataclass(frozen=True)
class MessageBlock:
    """Neighbouring messages, of one file or of several; text i is `data[begins[i]:ends[i]]`, UTF-8 with surrogates
    passed. Texts, and what is said of them, are there until the next block is asked for.
    """

    offset: Int64Array  # bytes, in the decompressed file
    line: Int32Array  # first line, from 1
    timestamp: Int64Array  # ns since the epoch, UTC; NO_TIME where absent
    level: Int8Array  # index into tables.LEVELS
    session: Int32Array  # number of the key; NO_SESSION where there is none
    shape: Int32Array  # texts of one shape differ in nothing but digits; NO_SHAPE where nothing is known of it
    of_shape: Int32Array  # room for what is known of texts by their shape, 0 at first
    data: np.ndarray  # uint8
    begins: Int64Array
    ends: Int64Array

    def __len__(self) -> int:
        return len(self.offset)


def read_columns(
    reader: MessageReader, keys: ByteDictionary, text_programs: Sequence[Program] = ()
) -> Iterator[MessageBlock]:
    """All messages of all sources as columns, `reader`'s counters and files included; session keys are numbered in
    `keys`. In texts of one shape `text_programs` find the same spans.

    Raises what iterating over the reader raises, and UnknownPattern before the first message where only Python can read
    this layout or find these keys.
    """
    return _ColumnReader(reader, keys, text_programs).read()


class _ColumnReader:
    def __init__(self, reader: MessageReader, keys: ByteDictionary, text_programs: Sequence[Program]) -> None:
        if codecs.lookup(reader.settings.encoding).name not in _ASCII_BELOW_128:
            raise UnknownPattern(f"the encoding {reader.settings.encoding}")
        self._reader = reader
        self._keys = keys
        self._layout = layout_of(reader.format, reader.settings)
        self._session_key = session_key_of(reader.settings)
        self._learned = nothing_learned()
        self._columns = empty_columns(1 << 13, 1 << 20)
        self._given = b""  # the key of all lines of the file that is read
        self._file_begin = 0  # the first message of the file that is read
        self._tails = tails_of(reader)
        self._shapes = self._line_shapes(text_programs)
        self._of_shape = np.zeros(len(self._shapes.found), np.int32)
        self._state = first_state()
        self._not_shown: bytes | None = None  # the last line that was read here, where Python does not know its clock

    def _line_shapes(self, text_programs: Sequence[Program]) -> LineShapes:
        """What will be known of lines by their shape, where finding it out each time would cost more."""
        key, programs = self._session_key, []
        if not self._layout.is_plain:
            programs += [self._layout.program, self._tails.frame, self._tails.python_frame]
        if key.kind == KEY_BY_REGEX and (programs or not key.is_anchored):
            programs.append(key.program)
        return empty_line_shapes(programs, text_programs)

    def read(self) -> Iterator[MessageBlock]:
        reader = self._reader
        reader.begin()
        series: str | None = None
        scan = reader.new_scanner()
        for index, source in enumerate(reader.sources):
            if (name := log_series(source.path)) != series:
                series, scan = name, reader.new_scanner()
                if not self._learned.time.is_whole:
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
        if session_key.kind == KEY_GIVEN:
            # the number that the file's key gets with its first message, if there is one
            self._given = self._reader.file_key(source).encode("utf-8", "surrogatepass")
            session_key = session_key._replace(given=len(self._keys))
        state.last_time[0] = NO_TIME
        state.counts[:] = 0
        for block in self._reader.raw_blocks(source):
            if forget_line_shapes(self._shapes):
                self._of_shape = np.zeros_like(self._of_shape)
                self._columns.shape[: self._columns.used[0]] = NO_SHAPE
            yield from self._read_block(block, taker, session_key)
        if taker.batch.text:
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
        n_lines = block.n_lines
        bounds = np.empty(n_lines + 1, np.int64)  # the newlines before and after each line
        bounds[0], bounds[1:-1], bounds[-1] = -1, block.newlines, len(data)
        begins, ends = bounds[:-1] + 1, bounds[1:]
        state.row[0] = 0
        burst, taken_at = 1, -1
        while state.row[0] < len(begins):
            before = int(self._columns.used[0])
            status = ALL_READ
            if not taker.is_joining:
                status = scan_lines(
                    data, begins, ends, block.offset, block.first_line, self._layout, session_key, self._learned,
                    self._shapes,
                    self._keys.arrays, self._tails, self._columns, state,
                )  # fmt: skip
                n_new = int(self._columns.used[0]) - before
                if n_new:
                    if session_key.kind == KEY_GIVEN and session_key.given == len(self._keys):
                        self._keys.number(self._given)
                    counters.n_messages += n_new
                    taker.has_header = True
                    if self._learned.time.numbers[8]:
                        last = int(state.last_row[0])
                        self._not_shown = data[begins[last] : ends[last]].tobytes()
            if status == KEYS_FULL:
                self._keys.grow()
            elif status == FULL:
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
        if word and word.isascii() and len(word) <= LONGEST_LEVEL and n < MOST_LEVELS:
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
        columns = self._columns = with_room(self._columns, after, bytes_after)
        columns.offset[n:after] = batch.offset
        columns.line[n:after] = batch.line
        columns.timestamp[n:after] = batch.timestamp
        columns.level[n:after] = batch.level
        columns.shape[n:after] = NO_SHAPE
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
            for column, former in zip(new[:6], columns[:6], strict=True):
                column[0] = former[last]
            new.begins[0], new.ends[0] = 0, end - begin
            new.data[: end - begin] = columns.data[begin:end]
            new.used[:] = 1, end - begin
            self._file_begin = int(self._file_begin == n)
        needed = GROWTH * (min(longest_line, LONGEST_LINE) + 2 * MAX_TEXT_CHARS) + len(EMPTY)
        self._columns = with_room(self._columns, 2, int(self._columns.used[1]) + needed)

    def _taken(self, n: int | None = None) -> MessageBlock:
        """The first n messages of the columns, or all; the columns are empty then."""
        old = self._columns
        self._columns = emptied_columns(old)
        n = int(old.used[0]) if n is None else n
        if self._reader.has_keys:
            self._reader.counters.n_no_session += int(np.count_nonzero(old.session[:n] == NO_SESSION))
        return MessageBlock(
            old.offset[:n], old.line[:n], old.timestamp[:n], old.level[:n], old.session[:n], old.shape[:n],
            self._of_shape, old.data, old.begins[:n],
            old.ends[:n],
        )  # fmt: skip
