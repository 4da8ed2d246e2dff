"""One file as a stream of decompressed bytes; the compression is recognised by the first bytes, not by the name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import BinaryIO, Protocol

import zstandard

from ai_detect.errors import DataError
from ai_detect.ingest import stores

#: Zstandard input at once: bounds what a hostile frame can unfold to.
_ZSTD_BYTES = 1 << 11
_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"
_BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class ByteStream(Protocol):
    """The one method of a decompressed file that reading needs."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty only at the end."""


@contextmanager
def open_bytes(file: str, name: str) -> Iterator[tuple[ByteStream, BufferedReader]]:
    """The decompressed content, and the file below it; `name` is for people. Raises DataError."""
    try:
        with stores.open_stored(file) as stored:
            magic = stored.peek(6)[:6]
            if magic.startswith(_GZIP):
                with gzip.GzipFile(fileobj=stored) as content:
                    yield content, stored
            elif magic.startswith(_ZSTD):
                yield _ZstandardReader(stored), stored
            elif magic.startswith(_BZIP2):
                with bz2.BZ2File(stored) as content:
                    yield content, stored
            elif magic.startswith(_XZ):
                with lzma.LZMAFile(stored) as content:
                    yield content, stored
            else:
                yield stored, stored
    except PermissionError:
        raise DataError(f"{name}: no permission to read it; change its mode or run as a user who may") from None
    except FileNotFoundError:
        raise DataError(f"{name}: no such file; it was there before") from None
    except _BROKEN_STREAM as error:
        raise DataError(f"{name}: broken or cut short ({error}); copy or compress it again") from error


class _ZstandardReader:
    """zstandard's own stream reader takes a file that was cut short for a whole one; this one raises EOFError."""

    def __init__(self, stored: BinaryIO) -> None:
        self._stored = stored
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._input = b""
        self._output = b""

    def read(self, size: int, /) -> bytes:
        while not self._output:
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._input = self._input or self._stored.read(_ZSTD_BYTES)
                if not self._input:
                    return b""
            else:
                self._input = self._input or self._stored.read(_ZSTD_BYTES)
                if not self._input:
                    raise EOFError("the last frame has no end")
            self._output, self._input = self._frame.decompress(self._input), b""
        data, self._output = self._output[:size], self._output[size:]
        return data


class _Utf8Reader:
    """Text in an encoding whose newline is not one byte, as UTF-8."""

    def __init__(self, content: ByteStream, encoding: str) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int, /) -> bytes:
        while data := self._content.read(size):
            if text := self._decoder.decode(data):
                return text.encode("utf-8", "replace")
        return self._decoder.decode(b"", True).encode("utf-8", "replace")


@contextmanager
def open_text(file: str, name: str, encoding: str) -> Iterator[tuple[ByteStream, BinaryIO, str]]:
    """The content with one-byte newlines, the file below it, and the encoding of its lines."""
    with open_bytes(file, name) as (content, stored):
        if content is stored:  # it can be looked at without being read
            yield _as_text(stored.peek(4)[:4], stored, stored, encoding)
            return
        head = content.read(4)
    with open_bytes(file, name) as (content, stored):
        yield _as_text(head, content, stored, encoding)


def _as_text(
    head: bytes, content: ByteStream, stored: BufferedReader, encoding: str
) -> tuple[ByteStream, BinaryIO, str]:
    wide = byte_order_encoding(head)
    given = codecs.lookup(encoding).name
    if wide is None and given.startswith(("utf-16", "utf-32")):
        wide = given if given.endswith(("le", "be")) else f"{given}-le"
    return (_Utf8Reader(content, wide), stored, "utf-8") if wide else (content, stored, encoding)


def is_plain(head: bytes) -> bool:
    """Whether a file of which this is all, or 6 bytes and more, is neither compressed nor in a wide encoding."""
    return not head.startswith((_GZIP, _ZSTD, _BZIP2, _XZ)) and byte_order_encoding(head) is None


def byte_order_encoding(head: bytes) -> str | None:
    """The wide encoding that a byte order mark announces, None where there is none."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
