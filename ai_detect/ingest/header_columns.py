"""Headers read in compiled code: blocks of bytes become columns of messages, with the results of `MessageReader`.

Compiled code (line_scanner.py) runs the layout's own pattern, finds the session key and takes it out of the text. It
knows no times and no levels of its own: it repeats what `TimeParser` and `LEVEL_INDEX` made of the line before where
nothing but the digits of the clock differ, and of a word that was seen before. Every other line (not ASCII, overlong,
without a header, with a new date, word or shape) goes through `LineTaker`, and is learned from.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.byte_regex import UnknownPattern
from ai_detect.ingest.byte_shapes import NO_SHAPE
from ai_detect.ingest.byte_texts import EMPTY, GROWTH
from ai_detect.ingest.byte_words import SLACK
from ai_detect.ingest.column_arrays import (
    BYTES,
    END,
    KEY_BY_REGEX,
    KEY_GIVEN,
    LINE,
    LONGEST_LEVEL,
    MESSAGES,
    MOST_LEVELS,
    OFFSET,
    empty_columns,
    first_state,
    layout_of,
    nothing_learned,
    session_key_of,
    tails_of,
    with_room,
)
from ai_detect.ingest.line_blocks import LineBlock, LineBlocks
from ai_detect.ingest.line_scanner import FULL, KEYS_FULL, LEFT, LONGEST_LINE, scan_files
from ai_detect.ingest.line_shapes import LineShapes, TextPatterns, empty_line_shapes, forget_line_shapes
from ai_detect.ingest.log_reader import decode_line
from ai_detect.ingest.log_sources import log_series
from ai_detect.ingest.message_block import MessageBlock
from ai_detect.ingest.messages import MAX_TEXT_CHARS, LineTaker, MessageBatch, MessageReader, SourceStats
from ai_detect.ingest.timestamps import TimeShape, time_shape
from ai_detect.tables import NO_SESSION, NO_TIME, Int32Array

_MOST_BURST = 64
_NO_PATTERNS = TextPatterns()
#: Encodings in which a line of bytes below 128 is these characters.
_ASCII_BELOW_128 = ("utf-8", "ascii", "iso8859-1", "cp1252")


def read_columns(
    reader: MessageReader, keys: ByteDictionary, texts: TextPatterns = _NO_PATTERNS
) -> Iterator[MessageBlock]:
    """All messages of all sources as columns, `reader`'s counters and files included; session keys are numbered in
    `keys`. In texts of one shape the patterns of `texts` find the same spans.

    Raises what iterating over the reader raises, and UnknownPattern before the first message where only Python can read
    this layout or find these keys.
    """
    return _ColumnReader(reader, keys, texts).read()


class _ColumnReader:
    def __init__(self, reader: MessageReader, keys: ByteDictionary, texts: TextPatterns) -> None:
        if codecs.lookup(reader.settings.encoding).name not in _ASCII_BELOW_128:
            raise UnknownPattern(f"the encoding {reader.settings.encoding}")
        self._reader = reader
        self._keys = keys
        self._layout = layout_of(reader.format, reader.settings)
        self._session_key = session_key_of(reader.settings)
        self._learned = nothing_learned()
        self._columns = empty_columns(1 << 14, 1 << 20)
        self._tails = tails_of(reader)
        self._shapes = self._line_shapes(texts)
        self._hide = texts.hide if self._shapes.hides else None
        self._state = first_state()
        self._stats = np.zeros((len(reader.sources), 3), np.int64)  # lines, bytes, messages of each source
        self._source = -1  # where Python is ready to read
        self._series: str | None = None
        self._scan = reader.new_scanner()
        self._taker: LineTaker | None = None  # of this source, where Python has read in it
        self._not_shown: bytes | None = None  # the last line that was read here, where Python does not know its clock

    def _line_shapes(self, texts: TextPatterns) -> LineShapes:
        """What will be known of lines by their shape."""
        key, programs = self._session_key, []
        if not self._layout.is_plain:
            programs += [self._layout.program, self._tails.frame, self._tails.python_frame]
        if key.kind == KEY_BY_REGEX:
            programs.append(key.program)
        return empty_line_shapes(programs, texts)

    def read(self) -> Iterator[MessageBlock]:
        reader, state = self._reader, self._state
        counters = reader.begin()
        for block in LineBlocks(reader.sources, reader.settings.encoding, self._shapes.before, self._hide):
            reader.note_progress(block.stored_bytes)
            files = block.lines.files
            stats = self._stats[block.source : block.source + len(files)]
            stats[:, 0] += files[:, END]
            stats[1:, 0] -= files[:-1, END]
            stats[:, 1] += files[:, BYTES]
            files[:, MESSAGES] = stats[:, 2]
            forget_line_shapes(self._shapes)  # the one message that is in the columns has its text
            self._columns.shape[: self._columns.used[0]] = NO_SHAPE
            yield from self._read_block(block)
            yield from self._hand_on(block.lines.data)
            stats[:, 2] = files[:, MESSAGES]
        self._finish_source()
        if self._columns.used[0]:
            yield self._block(np.zeros(0, np.uint8), int(self._columns.used[0]))
        counters.n_lines, counters.n_bytes = (int(total) for total in self._stats[:, :2].sum(axis=0))
        counters.n_blank += int(state.counts[0])
        counters.n_out_of_order += int(state.counts[1])
        counters.n_continuation += int(state.counts[2])
        reader.files = [
            SourceStats(source.path, *stats) for source, stats in zip(reader.sources, self._stats.tolist(), strict=True)
        ]
        reader.check_result()

    def _read_block(self, block: LineBlock) -> Iterator[MessageBlock]:
        state, (data, _, bounds, files) = self._state, block.lines
        if block.source != self._source:
            state.last_time[0] = NO_TIME
        state.row[0] = state.file[0] = 0
        burst, taken_at = 1, -1
        while True:
            self._enter(block)
            if state.row[0] == files[state.file[0], END]:
                if state.file[0] + 1 == len(files):  # which may go on in the next block
                    return
                state.file[0] += 1
                state.last_time[0] = NO_TIME
                continue
            status = LEFT
            if self._taker is None or not self._taker.is_joining:
                status = self._scan_files(block)
            if status == KEYS_FULL:
                self._keys.grow()
            elif status == FULL:
                yield from self._make_room(data, int(np.diff(bounds).max()))
            elif status == LEFT:
                self._enter(block)
                row = int(state.row[0])
                burst = min(2 * burst, _MOST_BURST) if row == taken_at else 1
                state.row[0] = taken_at = self._take(block, row, row + burst)
                yield from self._make_room(data, 0)

    def _enter(self, block: LineBlock) -> None:
        """Let Python be ready to read where compiled code has come to."""
        reader = self._reader
        while self._source < block.source + self._state.file[0]:
            self._finish_source()
            self._source += 1
            self._taker = None
            if (series := log_series(reader.sources[self._source].path)) != self._series:
                self._series, self._scan = series, reader.new_scanner()
                if not self._learned.time.is_whole:
                    self._learned = self._learned._replace(time=TimeShape.none())
                self._not_shown = None

    def _finish_source(self) -> None:
        """Put the message that Python has read last, if it has read any since."""
        if self._taker is not None and self._taker.batch.text:
            self._taker.close()
            self._put(self._taker)
        self._show_last()

    def _scan_files(self, block: LineBlock) -> int:
        """Read on in compiled code: the whole block where times say nothing of those in the next file, or one file."""
        state, keys, files = self._state, self._keys, block.lines.files
        first, n_before = int(state.file[0]), int(self._columns.used[0])
        n_own = int(files[first, MESSAGES])
        reads_on = self._layout.is_plain or self._learned.time.is_whole
        is_given = self._session_key.kind == KEY_GIVEN
        if is_given:  # a file's key is numbered with its first message
            state.given[0] = self._number_keys(block, first)[0] if n_own else len(keys)
        status = scan_files(
            block.lines, len(files) if reads_on else first + 1, self._layout, self._session_key, self._learned,
            self._shapes, keys.arrays, self._tails, self._columns, state,
        )  # fmt: skip
        self._reader.counters.n_messages += int(self._columns.used[0]) - n_before
        if is_given:
            self._number_keys(block, *(first + np.flatnonzero(files[first : state.file[0] + 1, MESSAGES])).tolist())
        if self._taker is not None and files[first, MESSAGES] > n_own:
            self._taker.has_header = True
        if self._learned.time.numbers[8] and files[state.file[0], MESSAGES] > (n_own if first == state.file[0] else 0):
            begin, end = block.lines.bounds[state.last_row[0] :][:2].tolist()
            self._not_shown = block.lines.data[begin + 1 : end].tobytes()
        return int(status)

    def _number_keys(self, block: LineBlock, *files: int) -> Int32Array:
        """The numbers of the keys of all lines of these files."""
        keys = [self._reader.file_key(self._reader.sources[block.source + file]) for file in files]
        return self._keys.numbers([key.encode("utf-8", "surrogatepass") for key in keys])

    def _take(self, block: LineBlock, row: int, stop: int) -> int:
        """Take lines of a file through Python from `row` on, until `stop` and as long as a message that has
        continuation lines goes on; returns the next.
        """
        reader, state, (data, _, bounds, files) = self._reader, self._state, block.lines
        counters, file = reader.counters, files[state.file[0]]
        if self._taker is None:
            self._taker = reader.line_taker(self._source, self._scan)
            self._taker.has_header = file[MESSAGES] > 0
        taker = self._taker
        if file[MESSAGES]:
            self._take_back(taker)
        self._show_last()
        taker.last_time = int(state.last_time[0])
        n_before = counters.n_messages
        header: tuple[re.Match[str], int, int] | None = None  # the last, with its time and level
        while row < file[END]:
            begin, end = int(bounds[row]) + 1, int(bounds[row + 1])
            offset = int(file[OFFSET]) + begin
            line, is_undecodable, is_truncated = decode_line(data[begin:end].tobytes(), block.encoding, offset == 0)
            if row >= stop and not (taker.is_joining and self._goes_on(line)):
                taker.close()
                break
            counters.n_undecodable += is_undecodable
            counters.n_truncated += is_truncated
            attributes = taker.take(offset, int(file[LINE]) + row, line)
            if isinstance(attributes, re.Match):
                header = attributes, taker.batch.timestamp[-1], taker.batch.level[-1]
            row += 1
        file[MESSAGES] += counters.n_messages - n_before
        if header is not None:
            self._learn(*header)
            state.last_clock[0] = self._learned.time.numbers[9]
        state.last_time[0] = taker.last_time
        if not taker.is_joining:
            self._put(taker)
        return row

    def _show_last(self) -> None:
        """Bring the clock of Python up to the last line that was read here."""
        if self._not_shown is not None and self._learned.time.numbers[8]:
            self._scan(self._not_shown.decode().removesuffix("\r"))
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
        if batch.text:
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
        columns = self._columns = with_room(self._columns, after, bytes_after + SLACK)
        columns.offset[n:after] = batch.offset
        columns.line[n:after] = batch.line
        columns.timestamp[n:after] = batch.timestamp
        columns.level[n:after] = batch.level
        columns.shape[n:after] = NO_SHAPE
        columns.session[n:after] = self._keys.numbers_or(NO_SESSION, batch.session_key)
        ends = n_bytes + np.cumsum([len(text) for text in texts])
        columns.begins[n:after] = ends - [len(text) for text in texts]
        columns.ends[n:after] = ends
        columns.data[n_bytes:bytes_after] = np.frombuffer(b"".join(texts), np.uint8)
        columns.used[:] = after, bytes_after

    def _make_room(self, lines: np.ndarray, longest_line: int) -> Iterator[MessageBlock]:
        """Hand on what there is where the columns are nearly full, or are too small for a line of so many bytes."""
        n, n_bytes = (int(used) for used in self._columns.used)
        if longest_line or n + _MOST_BURST >= len(self._columns.offset) or 2 * n_bytes >= len(self._columns.data):
            yield from self._hand_on(lines)
        needed = GROWTH * (min(longest_line, LONGEST_LINE) + 2 * MAX_TEXT_CHARS) + len(EMPTY)
        self._columns = with_room(self._columns, 2, int(self._columns.used[1]) + needed)

    def _hand_on(self, lines: np.ndarray) -> Iterator[MessageBlock]:
        """Hand on what there is but for the last message, which may go on in the next line, unless Python holds it:
        then it is not here, and one that is may have left its text out.
        """
        columns = self._columns
        is_here = self._taker is None or not self._taker.batch.text
        last = int(columns.used[0]) - is_here
        if last < 1:
            return
        yield self._block(lines, last)
        columns.used[:] = 0
        if is_here:
            begin, end = int(columns.begins[last]), int(columns.ends[last])
            for column in columns[:6]:
                column[0] = column[last]
            columns.data[: end - begin] = columns.data[begin:end]
            columns.begins[0], columns.ends[0] = 0, end - begin
            columns.used[:] = 1, end - begin

    def _block(self, lines: np.ndarray, n: int) -> MessageBlock:
        """The first n messages of the columns."""
        columns = self._columns
        if self._reader.has_keys:
            self._reader.counters.n_no_session += int(np.count_nonzero(columns.session[:n] == NO_SESSION))
        offset, line, time, level, session, shape, begins, ends = (column[:n] for column in columns[:8])
        return MessageBlock(offset, line, time, level, session, columns.data, begins, ends, lines, shape, self._shapes)
