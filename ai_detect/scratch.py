"""Columns as long as a log, in temporary files that go with the process.

They are memory-mapped: the kernel writes to the disk what it has no room for, so that a process needs the memory of the
block that it works on, not that of the log. Short columns are plain memory. Files lie where Python puts temporary ones
(TMPDIR); on a machine whose /tmp is memory itself, that should be a folder on a disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from weakref import WeakSet

import numpy as np

from ai_detect.errors import DataError

#: Rows that are worked on at once; only memory depends on it.
BLOCK_ROWS = 1 << 18
#: Longest column that is kept in plain memory.
_SHORT_BYTES = 1 << 20
#: A full disk, a quota that is used up, a limit of the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_mappings: WeakSet[mmap.mmap] = WeakSet()


def zeros(n: int, dtype: Any) -> np.ndarray:
    """A column of n zeros to be filled; raises DataError where there is no room for it on the disk."""
    n_bytes = n * np.dtype(dtype).itemsize
    if n_bytes <= _SHORT_BYTES:
        return np.zeros(n, dtype)
    with _on_disk() as file:
        _reserve(file, n_bytes)
        return mapped(file, dtype, n)


def filled(n: int, dtype: Any, make: Callable[[slice], np.ndarray]) -> np.ndarray:
    """A column of n rows, made block by block."""
    column = zeros(n, dtype)
    for block in blocks(n):
        column[block] = make(block)
    return column


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """CSR offsets (n + 1,) int64 of rows that hold so many each, (n,)."""
    offsets, total = zeros(len(counts) + 1, np.int64), 0
    for block in blocks(len(counts)):
        own = offsets[block.start + 1 : block.stop + 1]
        np.cumsum(counts[block], out=own)
        own += total
        total = int(own[-1])
    return offsets


def grouped(
    n_groups: int, n_rows: int, found: Callable[[slice], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order of their groups, stable, sorted by counting: CSR offsets (n_groups + 1,) and the rows.

    `found` gives the rows of a block that are in a group, and which group each is in; it is asked twice.
    """
    counts = zeros(n_groups, np.int64)
    for block in blocks(n_rows):
        groups, own = np.unique(found(block)[1], return_counts=True)
        counts[groups] += own
    offsets = offsets_of(counts)
    place = filled(n_groups, np.int64, lambda block: offsets[block])
    in_order = zeros(int(offsets[-1]), np.int64)
    for block in blocks(n_rows):
        rows, group = found(block)
        order = np.argsort(group, kind="stable")
        groups, begins, own = np.unique(group[order], return_index=True, return_counts=True)
        rank = np.arange(len(rows)) - np.repeat(begins, own)
        in_order[np.repeat(place[groups], own) + rank] = rows[order]
        place[groups] += own
    return offsets, in_order


def blocks(n: int, size: int | None = None) -> Iterator[slice]:
    """`n` rows in blocks of `BLOCK_ROWS` or `size`; where there are several, all columns are let go after each."""
    size = size or BLOCK_ROWS
    for begin in range(0, n, size):
        yield slice(begin, min(begin + size, n))
        if n > size:
            let_go()


def let_go() -> None:
    """Take no memory for what lies in files, until it is read again; nothing of it is lost."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for mapping in tuple(_mappings):
            mapping.madvise(mmap.MADV_DONTNEED)


def mapped(file: IO[bytes], dtype: Any, n: int, at: int = 0, *, writable: bool = True) -> np.ndarray:
    """The n numbers that begin at byte `at` of a file, memory-mapped; the file may be closed then."""
    n_bytes = n * np.dtype(dtype).itemsize
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    mapping = mmap.mmap(file.fileno(), at + n_bytes, access=access)
    _mappings.add(mapping)
    return np.frombuffer(mapping, dtype, n, at)


class Growing:
    """A column that is written as it comes."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._rest = bytearray()
        self._n_bytes = 0
        self._file: IO[bytes] | None = None

    def append(self, values: np.ndarray) -> None:
        """Add values at the end."""
        self._rest += np.ascontiguousarray(values, self._dtype).view(np.uint8).data
        if len(self._rest) > _SHORT_BYTES:
            self._write()

    def column(self) -> np.ndarray:
        """All that was appended; nothing more can be."""
        if self._file is None:
            return np.frombuffer(self._rest, self._dtype)
        self._write()
        with self._file as file:
            return mapped(file, self._dtype, self._n_bytes // self._dtype.itemsize)

    def _write(self) -> None:
        if self._file is None:
            with _explained():
                self._file = tempfile.TemporaryFile(prefix="ai_detect-", buffering=0)  # noqa: SIM115  # until `column`
        with _explained():
            while self._rest:
                written = self._file.write(self._rest)
                self._n_bytes += written
                del self._rest[:written]


@contextmanager
def _on_disk() -> Iterator[IO[bytes]]:
    with _explained(), tempfile.TemporaryFile(prefix="ai_detect-", buffering=0) as file:
        yield file


@contextmanager
def _explained() -> Iterator[None]:
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise DataError(
            f"no folder for temporary columns ({error.strerror or error}); set TMPDIR to a writable folder"
        ) from error
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in _NO_ROOM:
            raise DataError(
                f"{folder}: no room for temporary columns ({reason}); set TMPDIR to a folder with more, about 150 "
                "bytes a line of the log"
            ) from error
        raise DataError(f"{folder}: temporary columns cannot be kept ({reason})") from error


def _reserve(file: IO[bytes], n_bytes: int) -> None:
    """Take the room now: a mapping that finds none later ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:
        file.truncate(n_bytes)
