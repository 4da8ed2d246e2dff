"""Sessions that are worked on at once: so many that arrays are long enough, so few that they need little memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ai_detect import scratch
from ai_detect.tables import Int64Array

#: Most sessions of a block, and events unless it is one session; only memory and speed depend on it.
MAX_SESSIONS, MAX_EVENTS = 1 << 11, 1 << 16


def session_blocks(offsets: Int64Array, most: int | None = None) -> Iterator[slice]:
    """Neighbouring sessions, given by the offsets of their events, at most `MAX_SESSIONS` or `most` at once; what lies
    in files is let go after each block.
    """
    most = most or MAX_SESSIONS
    n, begin = len(offsets) - 1, 0
    while begin < n:
        end = int(np.searchsorted(offsets, offsets[begin] + MAX_EVENTS, side="right")) - 1
        end = min(max(end, begin + 1), begin + most, n)
        yield slice(begin, end)
        if end - begin < n:
            scratch.let_go()
        begin = end
