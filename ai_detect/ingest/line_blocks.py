"""Logs as blocks of whole lines for compiled code: parts of large files, or several small ones at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ai_detect.ingest import stores
from ai_detect.ingest.byte_shapes import put_shape
from ai_detect.ingest.byte_stream import is_plain, open_text
from ai_detect.ingest.byte_words import SLACK, places_of
from ai_detect.ingest.column_arrays import BYTES, END, LINE, OFFSET, Lines
from ai_detect.ingest.log_sources import LogSource
from ai_detect.ingest.whole_lines import BLOCK_BYTES, whole_lines

_NEWLINE = 10


@dataclass(frozen=True)
class LineBlock:
    """Neighbouring lines of a file or of several; what they lie in is there until the next block is asked for."""

    lines: Lines
    source: int  # index of the first file
    encoding: str
    stored_bytes: int  # read for this block of files as they are stored


class LineBlocks:
    """Reads sources one after another; `before` is that of `byte_shapes.told_apart_before`, and `hide` that of
    `TextPatterns`.
    """

    def __init__(
        self,
        sources: Sequence[LogSource],
        encoding: str,
        before: np.ndarray,
        hide: Callable[[np.ndarray, int], None] | None,
    ) -> None:
        self._sources = sources
        self._encoding = encoding
        self._before = before
        self._hide = hide
        self._shapes = np.empty(0, np.uint8)
        self._bounds = np.empty(0, np.int64)
        self._small = bytearray(2 * BLOCK_BYTES + SLACK)
        self._sizes: list[int] = []  # bytes of the files that are in it
        self._ends: list[int] = []  # where they end there, each with a newline

    def __iter__(self) -> Iterator[LineBlock]:
        """Raises DataError where a file cannot be read or a compressed one is broken."""
        for index, source in enumerate(self._sources):
            if not self._takes(source):
                yield from self._small_files(index)
                yield from self._parts(index, source)
            elif self._ends[-1] > BLOCK_BYTES:
                yield from self._small_files(index + 1)
        yield from self._small_files(len(self._sources))

    def _takes(self, source: LogSource) -> bool:
        """Read a file below a block, as it is stored, after those that were read before; whether it is such a file."""
        if source.begin or source.end is not None or stores.is_address(source.file):
            return False
        begin = self._ends[-1] if self._ends else 0
        room = memoryview(self._small)[begin : begin + BLOCK_BYTES]
        try:
            with io.FileIO(source.file) as file:
                n = file.readinto(room)
                if not 0 < n < len(room) or file.readinto(room[n:]) or not is_plain(bytes(room[: min(n, 6)])):
                    return False
        except OSError:  # whoever opens it again says what is wrong
            return False
        self._sizes.append(n)
        if room[n - 1] != _NEWLINE:
            room[n] = _NEWLINE
            n += 1
        self._ends.append(begin + n)
        return True

    def _small_files(self, stop: int) -> Iterator[LineBlock]:
        """The files that were read at once, the last before source `stop`."""
        if not self._ends:
            return
        ends = np.array(self._ends, np.int64)
        lines = self._lines(self._small, int(ends[-1]) - 1, len(ends))
        files = lines.files
        files[:, END] = np.searchsorted(lines.bounds, ends - 1)
        files[1:, OFFSET] = -ends[:-1]
        files[0, LINE] = 1
        files[1:, LINE] = 1 - files[:-1, END]
        files[:, BYTES] = self._sizes
        self._ends.clear()
        self._sizes.clear()
        yield LineBlock(lines, stop - len(ends), self._encoding, int(files[:, BYTES].sum()))

    def _parts(self, index: int, source: LogSource) -> Iterator[LineBlock]:
        line, n_stored = 1, source.begin
        with open_text(source.file, source.path, self._encoding) as (content, stored, encoding):
            if source.begin:
                stored.seek(source.begin)
            for start, end, chunk in whole_lines(content, source.begin, source.end, SLACK):
                lines = self._lines(chunk.obj, len(chunk), 1)
                lines.files[0] = len(lines.bounds) - 1, start, line, 0, end - start
                line += len(lines.bounds) - 1
                at = stored.tell()
                yield LineBlock(lines, index, encoding, at - n_stored)
                n_stored = at

    def _lines(self, buffer: Any, n: int, n_files: int) -> Lines:
        """The lines in the first n bytes of a buffer, whose last newline is left out."""
        data = np.frombuffer(buffer, np.uint8)
        if len(self._shapes) < len(data):
            self._shapes, self._bounds = np.empty(len(data), np.uint8), np.empty(len(data), np.int64)
        shapes, bounds = self._shapes, self._bounds
        put_shape(data[:n], self._before, shapes)
        if self._hide is not None:
            self._hide(shapes, n)
        bounds[0] = -1
        n_lines = places_of(_NEWLINE, data, 0, n, bounds, 1)
        bounds[n_lines] = n
        return Lines(data, shapes, bounds[: n_lines + 1], np.zeros((n_files, 5), np.int64))
