"""Which events occur in which sessions, in a number of columns that stays bounded however many templates there are."""

from __future__ import annotations

import numpy as np

from ai_detect.tables import Int32Array, Int64Array, SequenceTable

#: Columns of event matrices; the events beyond, by frequency, share the last of them.
MAX_COLUMNS = 256
_SHARED_COLUMNS = 64


def occurrences(sequences: SequenceTable, n_events: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Distinct (session, event) pairs, sorted, with their counts."""
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    pairs, counts = np.unique(session * max(n_events, 1) + sequences.event_id, return_counts=True)
    return pairs // max(n_events, 1), pairs % max(n_events, 1), counts.astype(np.int64)


def event_columns(frequency: Int64Array) -> Int32Array:
    """A column for each event; where there are too many, the rarest share some."""
    if len(frequency) <= MAX_COLUMNS:
        return np.arange(len(frequency), dtype=np.int32)
    rank = np.empty(len(frequency), np.int64)
    rank[np.argsort(-frequency, kind="stable")] = np.arange(len(frequency))
    own = MAX_COLUMNS - _SHARED_COLUMNS
    return np.where(rank < own, rank, own + rank % _SHARED_COLUMNS).astype(np.int32)
