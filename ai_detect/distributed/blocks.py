"""A log cut into blocks of whole messages, each of which can be read without the others.

An uncompressed file is cut near multiples of the block size, where a line with a header begins: what comes before
belongs to messages before it. A compressed file, or one in UTF-16 or UTF-32, is one block.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import BinaryIO

from ai_detect.artifacts import sha256_json
from ai_detect.errors import DataError
from ai_detect.ingest import stores
from ai_detect.ingest.byte_stream import open_text
from ai_detect.ingest.log_format import LogFormat
from ai_detect.ingest.log_reader import decode_line, read_blocks
from ai_detect.ingest.log_sources import LogSource, log_series
from ai_detect.ingest.messages import MessageReader
from ai_detect.ingest.session_keys import file_keys
from ai_detect.ingest.timestamps import ClockState, TimeParser
from ai_detect.ingest.whole_lines import MAX_LINE_BYTES


@dataclass(frozen=True)
class LogBlock:
    """Neighbouring lines of one file."""

    source: LogSource  # the lines; opened by its absolute path
    file: int  # which file of the log
    file_key: str
    begins_series: bool  # whether its clock begins anew
    stamp: str  # hex sha256 of what its store says of the file, and of the place in it

    def count_lines(self) -> int:
        """How many lines it has, 0 for a compressed file; raises DataError where it cannot be read."""
        if self.source.end is None:
            return 0
        n_lines, left = 0, self.source.stored_bytes
        try:
            with stores.open_stored(self.source.file) as file:
                file.seek(self.source.begin)
                while left and (data := file.read(min(left, MAX_LINE_BYTES))):
                    n_lines += data.count(b"\n")
                    left -= len(data)
        except OSError as error:
            raise DataError(f"{self.source.path}: cannot be read ({error.strerror or error})") from error
        return n_lines


def cut_log(reader: MessageReader, n_bytes: int) -> list[LogBlock]:
    """The blocks of a log, of about `n_bytes` each, in input order; raises DataError where a file cannot be opened."""
    keys = file_keys(reader.sources)
    blocks: list[LogBlock] = []
    series: str | None = None
    for number, source in enumerate(reader.sources):
        path = stores.absolute(source.file)
        ends = _ends(source, reader, n_bytes)
        changes = stores.stamp(path)
        begin = 0
        for end in ends:
            part = replace(source, spool=path, begin=begin, end=end)
            stamp = sha256_json([source.path, path, changes, begin, end])
            is_new = begin == 0 and log_series(source.path) != series
            blocks.append(LogBlock(part, number, keys[source.path], is_new, stamp))
            begin = end or 0
        series = log_series(source.path)
    return blocks


def clock_of_sample(reader: MessageReader) -> ClockState:
    """How the clock of a block in the middle of the log may begin: nothing is known but which fields make the time."""
    clock = TimeParser()
    scan = reader.format.new_scanner(clock)
    with closing(read_blocks(reader.sources[0], reader.settings.encoding)) as blocks:
        for line in next(blocks).lines[:1000]:
            scan(line)
    return ClockState(order=clock.state.order)


def _ends(source: LogSource, reader: MessageReader, n_bytes: int) -> list[int | None]:
    layout = reader.format if reader.settings.join_lines and reader.format.has_headers else None
    with open_text(source.file, source.path, reader.settings.encoding) as (content, stored, encoding):
        if content is not stored:
            return [None]
        size = source.stored_bytes
        found: list[int | None] = []
        last = 0
        for near in range(n_bytes, size, n_bytes):
            border = _border(stored, near, min(near + n_bytes, size), layout, encoding) if near > last else None
            if border is not None:
                found.append(last := border)
        return [*found, size]


def _border(stored: BinaryIO, near: int, before: int, layout: LogFormat | None, encoding: str) -> int | None:
    """Where from `near` on a line begins that has a header (any line where no `layout` tells); None for none."""
    stored.seek(near - 1)
    _next_line(stored)
    scan = None if layout is None else layout.new_scanner(TimeParser())
    while (at := stored.tell()) < before:
        if scan is None or scan(decode_line(_next_line(stored), encoding, False)[0].removesuffix("\r")) is not None:
            return at
    return None


def _next_line(stored: BinaryIO) -> bytes:
    """The beginning of the next line, without its end; the file then stands at the line after it."""
    line = part = stored.readline(MAX_LINE_BYTES)
    while part and not part.endswith(b"\n"):
        part = stored.readline(MAX_LINE_BYTES)
    return line.removesuffix(b"\n")
