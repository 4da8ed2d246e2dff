"""Which values stand in the slots of events, time among them, and what each is comparable with.

Every place of a message where its template has a mask or a wildcard is a slot of its event. Time makes two more slots:
the gap to the event before, and the time since the same event. A number is compared with those after the same event
before; where there are too few, with all of its slot; a gap then with all gaps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ai_detect.tables import MAX_VALUES, Float32Array, Float64Array, Int64Array, SequenceTable, ValueTable

#: Slots of an event beside its values, and no slot.
SINCE_SAME_EVENT, GAP, NO_SLOT = MAX_VALUES, MAX_VALUES + 1, -1
_SLOTS = MAX_VALUES + 2
#: Fewer sessions say too little of a number after the same event: the wider group is asked instead.
_ENOUGH_SESSIONS = 50
#: Smallest number told from 0, in its unit; a second counts as a thousand of these.
_RESOLUTION = 1e-3
_LONGEST_GAP_S = 1e9


class Observed(NamedTuple):
    """Values of events, one a row: of which event, in which slot, and what is comparable with what."""

    row: Int64Array
    session: Int64Array
    slot: Int64Array
    groups: Int64Array  # (n_levels, n): what it is compared with, from narrow to wide; -1 on a level that has none
    value: np.ndarray  # log-scaled number, float64, or hash, int64

    def widest(self) -> Int64Array:
        """The widest level of each."""
        return np.asarray(len(self.groups) - 1 - np.argmax(self.groups[::-1] >= 0, axis=0), np.int64)

    def level(self, n_sessions: Int64Array) -> Int64Array:
        """The narrowest level with enough sessions, else the widest; `n_sessions` (n_levels, n)."""
        enough = n_sessions >= _ENOUGH_SESSIONS
        return np.where(enough.any(axis=0), np.argmax(enough, axis=0), self.widest())


def observe(sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[Observed, Observed]:
    """The numbers in the slots of events, time among them; and all values as words."""
    event = sequences.event_id.astype(np.int64)
    event[event >= n_events] = n_events  # any event of no known template
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    before = np.full(len(event), n_events)
    before[1:] = np.where(session[1:] == session[:-1], event[:-1], n_events)

    row, slot = values.event, values.slot
    known = np.flatnonzero(event[row] < n_events)
    row, slot = row[known], slot[known]
    group = _own(event[row], slot)
    words = Observed(row, session[row], slot, group[None], values.key[known].astype(np.int64))
    number = values.number[known].astype(np.float64)
    finite = np.flatnonzero(np.isfinite(number))
    again, since = _since_same_event(sequences, session, event)
    known = np.flatnonzero(event[again] < n_events)
    again, since = again[known], since[known]
    later = np.flatnonzero(np.isfinite(sequences.gap_s))
    columns = (
        (row[finite], slot[finite], number[finite]),
        (again, np.full(len(again), SINCE_SAME_EVENT), since),
        (later, np.full(len(later), GAP), _seconds(sequences.gap_s[later])),
    )
    row, slot, number = (np.concatenate(column) for column in zip(*columns, strict=True))
    has_event, has_before = event[row] < n_events, before[row] < n_events
    groups = [
        np.where(has_event & has_before, _after(before[row], event[row], slot, n_events), -1),
        np.where(has_event, _own(event[row], slot), -1),
        np.where(slot == GAP, 0, -1),
    ]
    return Observed(row, session[row], slot, np.stack(groups), _log_scaled(number)), words


def n_groups(n_events: int) -> tuple[int, int]:
    """Groups that there can be of numbers, and of words."""
    return 1 + n_events * (1 + n_events) * _SLOTS, 1 + n_events * _SLOTS


def _own(event: Int64Array, slot: Int64Array) -> Int64Array:
    """The group of a slot of an event; 0 is that of all gaps."""
    return 1 + event * _SLOTS + slot


def _after(before: Int64Array, event: Int64Array, slot: Int64Array, n_events: int) -> Int64Array:
    """The group of a slot of an event after another."""
    return _own(n_events * (1 + before) + event, slot)


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


def _log_scaled(number: Float64Array) -> Float64Array:
    """The logarithm of a number, but straight through 0."""
    return np.asarray(np.arcsinh(number / _RESOLUTION), np.float64)
