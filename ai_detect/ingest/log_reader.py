"""From one log to blocks of lines, raw and decoded.

Byte offsets and sizes are those of the decompressed content everywhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ai_detect.ingest.byte_stream import ByteStream, open_text
from ai_detect.ingest.log_sources import LogSource
from ai_detect.ingest.whole_lines import BLOCK_BYTES, MAX_LINE_BYTES, whole_lines
from ai_detect.tables import Int64Array

_FETCH_BYTES = 1 << 23
_NEWLINE = 10


@dataclass(frozen=True)
class LineBlock:
    """Neighbouring lines of one file, decoded, without their line ends; parallel lists."""

    first_line: int  # from 1
    offsets: list[int]  # bytes, in the decompressed content
    lines: list[str]
    n_undecodable: int  # lines
    n_truncated: int  # lines longer than MAX_LINE_BYTES, cut there
    end_offset: int
    stored_bytes: int  # read so far of the file as it is stored


@dataclass(frozen=True)
class RawBlock:
    """Neighbouring whole lines of one file as stored (UTF-16 and UTF-32 as UTF-8), without the last newline."""

    first_line: int  # from 1
    offset: int  # bytes, in the decompressed content
    end_offset: int  # where the next line begins
    content: memoryview  # there until the next block is asked for
    newlines: Int64Array  # where they stand in the content
    encoding: str
    stored_bytes: int  # read so far of the file as it is stored

    @property
    def n_lines(self) -> int:
        """How many lines there are."""
        return len(self.newlines) + 1


def read_raw_blocks(source: LogSource, encoding: str = "utf-8") -> Generator[RawBlock, None, None]:
    """Blocks of about 256 KiB of whole lines, split at newlines only.

    UTF-16 and UTF-32 (also recognised by their byte order mark) are read as UTF-8, and offsets then count UTF-8 bytes.
    Of a line that is longer than a block and `MAX_LINE_BYTES` only the beginning is there. Raises DataError where the
    file cannot be read or a compressed one is broken.
    """
    with open_text(source.file, source.path, encoding) as (content, stored, encoding):
        line = 1
        if source.begin:
            stored.seek(source.begin)
        for start, end, chunk in whole_lines(content, source.begin, source.end):
            newlines = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
            yield RawBlock(line, start, end, chunk, newlines, encoding, stored.tell() - source.begin)
            line += len(newlines) + 1


def read_blocks(source: LogSource, encoding: str = "utf-8") -> Generator[LineBlock, None, None]:
    """The blocks of `read_raw_blocks`, decoded; a carriage return before a newline goes too.

    Undecodable bytes become surrogates ("surrogateescape").
    """
    with closing(read_raw_blocks(source, encoding)) as blocks:
        for block in blocks:
            yield decode_block(block)


def decode_block(block: RawBlock) -> LineBlock:
    """The lines of a block."""
    chunk, start = bytes(block.content), block.offset
    raw = chunk.split(b"\n")
    lengths = [len(item) + 1 for item in raw]
    n_truncated = 0
    if max(lengths) > MAX_LINE_BYTES + 1:
        n_truncated = sum(length > MAX_LINE_BYTES + 1 for length in lengths)
        raw = [item[:MAX_LINE_BYTES] for item in raw]
        chunk = b"\n".join(raw)
    lines, n_undecodable = _decode(chunk, raw, block.encoding)
    if block.offset == 0:
        lines[0] = lines[0].removeprefix("\ufeff")
    offsets = []
    for length in lengths:
        offsets.append(start)
        start += length
    return LineBlock(block.first_line, offsets, lines, n_undecodable, n_truncated, block.end_offset, block.stored_bytes)


def decode_line(raw: bytes, encoding: str, is_first: bool) -> tuple[str, bool, bool]:
    """One line of a raw block as `read_blocks` gives it, whether it holds undecodable bytes, and whether it was cut."""
    lines, n_undecodable = _decode(raw[:MAX_LINE_BYTES], [raw[:MAX_LINE_BYTES]], encoding)
    line = lines[0].removeprefix("\ufeff") if is_first else lines[0]
    return line, n_undecodable > 0, len(raw) > MAX_LINE_BYTES


def fetch_lines(source: LogSource, spans: Sequence[tuple[int, int]], encoding: str = "utf-8") -> list[list[str]]:
    """Reread lines for a report: for each (byte offset, number of lines) the decoded lines, in one pass over the file.

    At most 8 MiB are read for one span. Fewer lines come back where the file ends early.
    """
    order = sorted(range(len(spans)), key=lambda index: spans[index][0])
    found: list[list[str]] = [[] for _ in spans]
    for index, lines in zip(order, lines_at(source, (spans[index] for index in order), encoding), strict=True):
        found[index] = lines
    return found


def lines_at(source: LogSource, spans: Iterable[tuple[int, int]], encoding: str = "utf-8") -> Iterator[list[str]]:
    """The lines of `fetch_lines` one span after another; their offsets must not fall."""
    with open_text(source.file, source.path, encoding) as (content, _, encoding):
        window, position = b"", 0
        for offset, n_lines in spans:
            if offset < position + len(window):
                window = window[offset - position :]
            else:
                _skip(content, offset - position - len(window))
                window = b""
            position = offset
            end, n_found = _end_of_lines(window, n_lines)
            while n_found < n_lines and len(window) < _FETCH_BYTES and (data := content.read(BLOCK_BYTES)):
                window += data
                end, n_found = _end_of_lines(window, n_lines)
            raw = [item[:MAX_LINE_BYTES] for item in window[:end].split(b"\n")[:n_lines]]
            if raw and not raw[-1] and len(raw) > n_found:
                raw.pop()  # nothing follows the last newline
            yield _decode(b"\n".join(raw), raw, encoding)[0] if raw else []


def _end_of_lines(window: bytes, n_lines: int) -> tuple[int, int]:
    """Where the first so many lines end, and how many newlines there are up to there."""
    end = n_found = 0
    while n_found < n_lines and (newline := window.find(b"\n", end)) >= 0:
        end, n_found = newline + 1, n_found + 1
    return (end if n_found == n_lines else len(window)), n_found


def _skip(content: ByteStream, n_bytes: int) -> None:
    if isinstance(content, io.BufferedReader):
        content.seek(n_bytes, os.SEEK_CUR)
        return
    while n_bytes > 0 and (data := content.read(min(n_bytes, BLOCK_BYTES))):
        n_bytes -= len(data)


def _decode(chunk: bytes, raw: list[bytes], encoding: str) -> tuple[list[str], int]:
    """The lines of `chunk` (which `raw` holds one by one) and how many of them hold undecodable bytes."""
    try:
        lines = chunk.decode(encoding).split("\n")
        n_undecodable = 0
    except UnicodeError:
        lines = []
    if len(lines) != len(raw):
        pairs = [_decode_line(item, encoding) for item in raw]
        lines = [line for line, _ in pairs]
        n_undecodable = sum(bad for _, bad in pairs)
    if b"\r" in chunk:
        lines = [line.removesuffix("\r") for line in lines]
    return lines, n_undecodable


def _decode_line(raw: bytes, encoding: str) -> tuple[str, bool]:
    try:
        return raw.decode(encoding).replace("\n", " "), False
    except UnicodeError:
        pass
    try:
        return raw.decode(encoding, "surrogateescape").replace("\n", " "), True
    except UnicodeError:  # an encoding whose errors cannot be escaped
        return raw.decode("latin-1"), True
