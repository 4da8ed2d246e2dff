"""A stream of bytes in blocks of whole lines."""

from __future__ import annotations

import io
from collections.abc import Iterator

from ai_detect.ingest.byte_stream import ByteStream

#: What is kept of a line.
MAX_LINE_BYTES = 1 << 20
#: What is read at once; more would not stay in the processor's cache.
BLOCK_BYTES = 1 << 18


def whole_lines(
    content: ByteStream, start: int = 0, stop: int | None = None, slack: int = 0
) -> Iterator[tuple[int, int, memoryview]]:
    """(byte offset, that of the next line, whole lines without the last newline) of what `content` has left, up to the
    byte `stop`; of an endless line only the beginning is kept in memory.

    The lines lie at the beginning of one buffer that is used again and again: new memory costs more than reading into
    old. At least `slack` bytes follow the lines.
    """
    buffer = _Buffer(content, None if stop is None else stop - start, slack)
    while buffer.fill():
        cut = buffer.bytes.rfind(b"\n", 0, buffer.n_used)
        if cut >= 0:
            yield start, start + cut + 1, buffer.view[:cut]
            start += cut + 1
            buffer.drop(cut + 1)
        elif buffer.n_used > MAX_LINE_BYTES:
            line, begin, n_bytes = bytearray(buffer.view[: buffer.n_used + slack]), start, buffer.n_used
            start += buffer.n_used
            buffer.drop(buffer.n_used)
            while buffer.fill():
                cut = buffer.bytes.find(b"\n", 0, buffer.n_used)
                n_dropped = buffer.n_used if cut < 0 else cut + 1
                start += n_dropped
                buffer.drop(n_dropped)
                if cut >= 0:
                    break
            yield begin, start, memoryview(line)[:n_bytes]
    if buffer.n_used:
        end = buffer.n_used - buffer.bytes.endswith(b"\n", 0, buffer.n_used)
        yield start, start + buffer.n_used, buffer.view[:end]


class _Buffer:
    """What was read and not yet dropped: `bytes[:n_used]`, also seen as `view`."""

    def __init__(self, content: ByteStream, n_bytes: int | None, slack: int) -> None:
        self._content = content
        self._n_left = n_bytes  # to be read, None for all there is
        self._slack = slack
        self._make(2 * BLOCK_BYTES + slack)
        self.n_used = 0

    def _make(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)

    def fill(self) -> bool:
        """Read a block more; whether there was any."""
        if self.n_used + BLOCK_BYTES + self._slack > len(self.bytes):
            former = self.view[: self.n_used]
            self._make(2 * len(self.bytes))
            self.view[: self.n_used] = former
        wanted = BLOCK_BYTES if self._n_left is None else min(BLOCK_BYTES, self._n_left)
        into = self.view[self.n_used : self.n_used + wanted]
        if isinstance(self._content, io.BufferedIOBase):
            n_read = self._content.readinto(into)
        else:
            data = self._content.read(wanted)
            n_read = len(data)
            into[:n_read] = data
        self.n_used += n_read
        if self._n_left is not None:
            self._n_left -= n_read
        return n_read > 0

    def drop(self, n: int) -> None:
        """Forget the first n bytes."""
        n_kept = self.n_used - n
        self.bytes[:n_kept] = self.bytes[n : self.n_used]
        self.n_used = n_kept
