"""From one log to blocks of lines, raw and decoded.

Byte offsets and sizes are those of the decompressed content everywhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ai_detect.ingest.byte_stream import ByteStream, open_text
from ai_detect.ingest.log_sources import LogSource
from ai_detect.ingest.whole_lines import BLOCK_BYTES, MAX_LINE_BYTES, whole_lines

_FETCH_BYTES = 1 << 23


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


def read_blocks(source: LogSource, encoding: str = "utf-8") -> Generator[LineBlock, None, None]:
    """Blocks of about 256 KiB of whole lines, split at newlines only; a carriage return before one goes too.

    UTF-16 and UTF-32 (also recognised by their byte order mark) are read as UTF-8, and offsets then count UTF-8 bytes.
    Undecodable bytes become surrogates ("surrogateescape"). Of a line that is longer than a block and `MAX_LINE_BYTES`
    only the beginning is there. Raises DataError where the file cannot be read or a compressed one is broken.
    """
    with open_text(source.file, source.path, encoding) as (content, stored, encoding):
        line = 1
        if source.begin:
            stored.seek(source.begin)
        for start, end, chunk in whole_lines(content, source.begin, source.end):
            content_bytes = bytes(chunk)
            raw = content_bytes.split(b"\n")
            lengths = [len(item) + 1 for item in raw]
            n_truncated = 0
            if max(lengths) > MAX_LINE_BYTES + 1:
                n_truncated = sum(length > MAX_LINE_BYTES + 1 for length in lengths)
                raw = [item[:MAX_LINE_BYTES] for item in raw]
                content_bytes = b"\n".join(raw)
            lines, n_undecodable = _decode(content_bytes, raw, encoding)
            if start == 0:
                lines[0] = lines[0].removeprefix("\ufeff")
            offsets = list(accumulate(lengths[:-1], initial=start))
            stored_bytes = stored.tell() - source.begin
            yield LineBlock(line, offsets, lines, n_undecodable, n_truncated, end, stored_bytes)
            line += len(lines)


def decode_line(raw: bytes, encoding: str, is_first: bool) -> tuple[str, bool, bool]:
    """One line of a block as `read_blocks` gives it, whether it holds undecodable bytes, and whether it was cut."""
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
