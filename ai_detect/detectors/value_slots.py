"""Which values stand in the slots of events, time among them, and what each is comparable with.

Every place of a message where its template has a mask or a wildcard is a slot of its event. Time makes two more slots:
the gap to the event before, and the time since the same event. A value is compared with all of its slot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ai_detect.tables import MAX_VALUES, Float32Array, Float64Array, Int64Array, SequenceTable, ValueTable

#: Slots of an event beside its values, and no slot.
SINCE_SAME_EVENT, GAP, NO_SLOT = MAX_VALUES, MAX_VALUES + 1, -1
_SLOTS = MAX_VALUES + 2
#: What is hardly told from 0: of a number, in its unit; of a time, in seconds, as schedulers come and go by less.
_SMALL_NUMBER, _SHORT_S = 1e-3, 1.0
_LONGEST_GAP_S = 1e9


class Observed(NamedTuple):
    """Values of events, one a row: of which event, in which slot, and with what it is comparable."""

    row: Int64Array
    session: Int64Array
    slot: Int64Array
    group: Int64Array  # values of one group are comparable with each other
    value: np.ndarray  # log-scaled number, float64, or hash, int64


def observe(sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[Observed, Observed]:
    """The numbers in the slots of known events, time among them; and all values as words."""
    event = sequences.event_id.astype(np.int64)
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)

    row, slot = values.event, values.slot
    known = np.flatnonzero(event[row] < n_events)
    row, slot = row[known], slot[known]
    words = Observed(row, session[row], slot, _group(event[row], slot), values.key[known].astype(np.int64))
    number = values.number[known].astype(np.float64)
    finite = np.flatnonzero(np.isfinite(number))
    again, since = _since_same_event(sequences, session, event)
    later = np.flatnonzero(np.isfinite(sequences.gap_s))
    columns = (
        (row[finite], slot[finite], _log_scaled(number[finite], _SMALL_NUMBER)),
        (again, np.full(len(again), SINCE_SAME_EVENT), _log_scaled(since, _SHORT_S)),
        (later, np.full(len(later), GAP), _log_scaled(_seconds(sequences.gap_s[later]), _SHORT_S)),
    )
    row, slot, number = (np.concatenate(column) for column in zip(*columns, strict=True))
    known = np.flatnonzero(event[row] < n_events)
    row, slot, number = row[known], slot[known], number[known]
    return Observed(row, session[row], slot, _group(event[row], slot), number), words


def n_groups(n_events: int) -> int:
    """Groups that there can be."""
    return n_events * _SLOTS


def _group(event: Int64Array, slot: Int64Array) -> Int64Array:
    return event * _SLOTS + slot


def _since_same_event(
    sequences: SequenceTable, session: Int64Array, event: Int64Array
) -> tuple[Int64Array, Float64Array]:
    """Events that are not the first of their kind in their session, and the seconds since the one before, where these
    are known.
    """
    # whole microseconds: sums of these are exact, wherever a session stands
    clock = np.cumsum(np.round(_seconds(sequences.gap_s) * 1e6).astype(np.int64))
    n_unknown = np.cumsum(np.isnan(sequences.gap_s))
    order = np.lexsort((event, session))
    same = np.flatnonzero((np.diff(session[order]) == 0) & (np.diff(event[order]) == 0))
    later, earlier = order[same + 1], order[same]
    is_known = n_unknown[later] == n_unknown[earlier]
    later, earlier = later[is_known], earlier[is_known]
    return later, (clock[later] - clock[earlier]) / 1e6


def _seconds(gap_s: Float32Array) -> Float64Array:
    return np.clip(np.nan_to_num(gap_s.astype(np.float64)), 0, _LONGEST_GAP_S)


def _log_scaled(number: Float64Array, small: float) -> Float64Array:
    """The logarithm of a number, but straight through 0, where it is `small`."""
    return np.asarray(np.arcsinh(number / small), np.float64)
