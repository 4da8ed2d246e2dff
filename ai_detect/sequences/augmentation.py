"""Altered copies of one session: light views that mean the same, and damaged copies that do not.

Every function is pure: the same event ids and seed give the same result under any version of any library, in any
process.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ai_detect.tables import Int32Array

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
#: An event that occurs this often may lose one occurrence in a light view; fewer, and the number is likely to matter.
_OFTEN = 8


def mix64(*values: int) -> int:
    """Hash integers to 64 well-mixed bits; the order of the values matters (splitmix64, Steele et al. 2014)."""
    state = 0
    for value in values:
        state = ((state ^ (value & _WORD)) + _GOLDEN) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state


def mix64_array(values: np.ndarray, seed: int) -> np.ndarray:
    """`mix64(seed, value)` for each value; (...) integers to (...) uint64."""
    state = (np.asarray(values).astype(np.uint64) ^ np.uint64(mix64(seed))) + np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


def _draws(seed: int) -> Iterator[int]:
    """Endless 64-bit draws."""
    counter = 0
    while True:
        yield mix64(seed, counter)
        counter += 1


def light_view(ids: Int32Array, seed: int) -> Int32Array:
    """A copy that should count as the same behaviour: a few neighbours swapped, one event of a long repetition
    left out.
    """
    events: list[int] = ids.tolist()
    draw = _draws(seed)
    if len(events) > 1:
        for _ in range(1 + len(events) // 16):
            at = next(draw) % (len(events) - 1)
            events[at], events[at + 1] = events[at + 1], events[at]
    if len(events) >= _OFTEN:
        at = next(draw) % len(events)
        if events.count(events[at]) >= _OFTEN:
            del events[at]
    return np.array(events, np.int32)


def shifted_negative(ids: Int32Array, seed: int, n_events: int) -> Int32Array:
    """A damaged copy, never equal to the session: cut short, events lost, foreign, repeated, or locally out of order.

    `n_events` is the number of known event ids, from which foreign ones are drawn. After the distribution-shifting
    augmentations of CSI (Tack et al. 2020).
    """
    events: list[int] = ids.tolist()
    draw = _draws(seed)
    damage = _DAMAGES[next(draw) % len(_DAMAGES)]
    damaged = damage(events, draw, n_events) if events else events
    if damaged == events:  # the damage found nothing to act on
        damaged = [*events, _foreign(events, draw, n_events)]
    return np.array(damaged, np.int32)


def _foreign(events: list[int], draw: Iterator[int], n_events: int) -> int:
    """An event id that the session does not hold, if a few tries find one."""
    present = set(events)
    event = 0
    for _ in range(4):
        event = next(draw) % max(n_events, 1)
        if event not in present:
            break
    return event


def _amount(events: list[int], draw: Iterator[int]) -> int:
    """How many events to touch: one to a tenth of the session."""
    return 1 + next(draw) % (1 + len(events) // 10)


def _truncate(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    if len(events) < 2:
        return events
    kept = 1 + next(draw) % (len(events) - 1)
    return events[:kept] if next(draw) % 4 else events[-kept:]


def _lose(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    lost = events[next(draw) % len(events)]
    if next(draw) % 2:
        left = [event for event in events if event != lost]
        if left:
            return left
    at = next(draw) % len(events)
    return events[:at] + events[at + _amount(events, draw) :] if len(events) > 1 else events


def _insert(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    damaged = list(events)
    for _ in range(_amount(events, draw)):
        damaged.insert(next(draw) % (len(damaged) + 1), _foreign(events, draw, n_events))
    return damaged


def _replace(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    damaged = list(events)
    for _ in range(_amount(events, draw)):
        damaged[next(draw) % len(damaged)] = _foreign(events, draw, n_events)
    return damaged


def _repeat(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    start = next(draw) % len(events)
    block = events[start : start + 1 + next(draw) % (1 + len(events) // 4)]
    return events[:start] + block * (1 + next(draw) % 3) + events[start:]


def _shuffle(events: list[int], draw: Iterator[int], n_events: int) -> list[int]:
    width = min(len(events), 4 + next(draw) % (1 + len(events) // 4))
    start = next(draw) % (len(events) - width + 1)
    block = sorted(range(start, start + width), key=lambda at: mix64(at, next(draw)))
    return events[:start] + [events[at] for at in block] + events[start + width :]


_DAMAGES = (_truncate, _lose, _insert, _replace, _repeat, _shuffle)
