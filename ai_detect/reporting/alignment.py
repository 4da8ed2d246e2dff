"""How one session differs from another: the longest common subsequence, bit-parallel.

Source: Hyyro, "Bit-parallel LCS-length computation revisited" (2004). A row of the dynamic programme is one Python
integer, so sessions of thousands of events are compared in milliseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from ai_detect.tables import Int64Array, SequenceTable

#: Above this many cells of the dynamic programme (50 MB as bits) sessions are matched greedily.
MAX_CELLS = 400_000_000
LOOK_AHEAD = 100
#: Sessions of so many events at most fit numpy's integers, so that many can be compared at once.
WORD_BITS = 64


def bit_masks(events: Sequence[int]) -> dict[int, int]:
    """For each event an integer whose bit i is set where `events[i]` is that event."""
    masks: dict[int, int] = {}
    for position, event in enumerate(events):
        masks[event] = masks.get(event, 0) | 1 << position
    return masks


def common_length(masks: dict[int, int], n_events: int, other: Sequence[int]) -> int:
    """Length of the longest common subsequence of `other` and the sequence of `n_events` that `masks` was made from."""
    full = (1 << n_events) - 1
    row = full
    for event in other:
        matches = row & masks.get(event, 0)
        row = (row + matches | row - matches) & full
    return n_events - row.bit_count()


def common_lengths(events: Sequence[int], others: SequenceTable) -> Int64Array:
    """`common_length` of a sequence with each of the others, (n_others,); short ones are compared side by side."""
    masks = bit_masks(events)
    if len(events) > WORD_BITS:
        each = (others.session(number).tolist() for number in range(len(others)))
        return np.array([common_length(masks, len(events), other) for other in each], np.int64)
    of_event = np.zeros(int(others.event_id.max(initial=-1)) + 1, np.uint64)
    for event, mask in masks.items():
        if event < len(of_event):
            of_event[event] = mask
    lengths = others.lengths
    place = np.arange(len(others.event_id)) - np.repeat(others.offsets[:-1], lengths)
    steps = np.zeros((int(lengths.max(initial=0)), len(others)), np.uint64)  # 0 behind the end, which changes nothing
    steps[place, np.repeat(np.arange(len(others)), lengths)] = of_event[others.event_id]
    full = np.uint64((1 << len(events)) - 1)
    rows = np.full(len(others), full)
    for masks_of_step in steps:
        matches = rows & masks_of_step
        rows = (rows + matches | rows - matches) & full
    unmatched = np.unpackbits(rows.view(np.uint8).reshape(-1, rows.itemsize), axis=1)
    return np.asarray(len(events) - unmatched.sum(axis=1, dtype=np.int64), np.int64)


def matching_pairs(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (i, j), rising in both, where `left[i] == right[j]`: as many as can be, matched as early as can be.

    Early matching makes the second copy of a repeated block the surplus one.
    """
    if len(left) * len(right) > MAX_CELLS:
        return _pairs_nearby(left, right)
    # Both are reversed: rows[i] tells the common length of left[i:] with every right[j:], so the walk goes forward.
    n_right = len(right)
    masks = bit_masks(right[::-1])
    full = (1 << n_right) - 1
    rows = [full]
    for event in reversed(left):
        row = rows[-1]
        matches = row & masks.get(event, 0)
        rows.append((row + matches | row - matches) & full)
    rows.reverse()
    pairs = []
    i = j = 0
    while i < len(left) and j < n_right:
        if left[i] == right[j]:  # equal heads are part of some longest common subsequence
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif rows[i] >> (n_right - 1 - j) & 1:  # right[j] can be passed over without loss
            j += 1
        else:
            i += 1
    return pairs


def _pairs_nearby(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
    """Each event of `left` with its next occurrence in `right`, unless that skips more than `LOOK_AHEAD` events."""
    places: dict[int, list[int]] = {}
    for position, event in enumerate(right):
        places.setdefault(event, []).append(position)
    pairs = []
    j = 0
    for i, event in enumerate(left):
        candidates = places.get(event, [])
        at = bisect_left(candidates, j)
        if at < len(candidates) and candidates[at] < j + LOOK_AHEAD:
            pairs.append((i, candidates[at]))
            j = candidates[at] + 1
    return pairs
