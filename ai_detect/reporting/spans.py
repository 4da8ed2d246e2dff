"""Where each session begins and ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.wording import decimals_of, rfc3339
from ai_detect.sequences.session_blocks import session_blocks
from ai_detect.tables import NO_TIME, EventTable, Int64Array, SessionTable


@dataclass(frozen=True)
class SessionSpans:
    """Lines from 1, messages whole, and times in ns, NO_TIME where absent; all (n_sessions,)."""

    source: Int64Array  # index of the file of its first line
    first_line: Int64Array
    last_line: Int64Array
    start_time: Int64Array
    end_time: Int64Array
    start_decimals: int  # of seconds, as many as the finest start needs
    end_decimals: int

    def starts(self, sessions: Int64Array | slice) -> list[str | None]:
        """When these sessions start, None where that is not known."""
        return rfc3339(self.start_time[sessions], self.start_decimals)

    def ends(self, sessions: Int64Array | slice) -> list[str | None]:
        """When these sessions end, None where that is not known."""
        return rfc3339(self.end_time[sessions], self.end_decimals)


def session_spans(events: EventTable, sessions: SessionTable) -> SessionSpans:
    """Line range and times of every session; sessions hold at least one event each."""
    source, first_line, last_line, start, end = (scratch.zeros(len(sessions), np.int64) for _ in range(5))
    file_lines = np.array([source.n_lines for source in events.sources], np.int64)
    latest = np.iinfo(np.int64).max
    for block in session_blocks(sessions.offsets):
        offsets = sessions.offsets[block.start : block.stop + 1]
        rows = sessions.rows[offsets[0] : offsets[-1]]
        begins = offsets[:-1] - offsets[0]
        first, last = rows[begins], rows[offsets[1:] - offsets[0] - 1]
        last_source = _sources(events, last)
        follower = np.minimum(last + 1, len(events) - 1)
        same_file = (last + 1 < len(events)) & (_sources(events, follower) == last_source)
        next_line = events.line[follower].astype(np.int64)
        times = events.timestamp[rows]
        earliest = np.minimum.reduceat(np.where(times == NO_TIME, latest, times), begins)
        source[block], first_line[block] = _sources(events, first), events.line[first]
        last_line[block] = np.where(same_file, next_line - 1, file_lines[last_source])
        start[block] = np.where(earliest == latest, NO_TIME, earliest)
        end[block] = np.maximum.reduceat(times, begins)
    return SessionSpans(source, first_line, last_line, start, end, decimals_of(start), decimals_of(end))


def _sources(events: EventTable, rows: Int64Array) -> Int64Array:
    starts = np.array([source.first_event for source in events.sources], np.int64)
    return np.searchsorted(starts, rows, side="right").astype(np.int64) - 1
