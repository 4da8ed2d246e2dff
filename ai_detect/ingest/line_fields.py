"""The fields of a line in compiled code: its time, and its session key."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.byte_machine import GAVE_UP, search
from ai_detect.ingest.byte_words import word_at
from ai_detect.ingest.compiled import compiled, inlined
from ai_detect.ingest.timestamps import HALF_DAY
from ai_detect.tables import NO_TIME

#: The digit 0 in each byte, and what lifts bytes of 10 and more into the highest bit.
_ZEROS, _ABOVE_NINE = np.uint64(0x3030303030303030), np.uint64(0x7676767676767676)


@compiled
def time_of(
    data: np.ndarray,
    begin: int,
    end: int,
    text: np.ndarray,
    is_fixed: np.ndarray,
    is_digit: np.ndarray,
    numbers: np.ndarray,
    last_clock: np.ndarray,
) -> int:
    """The time of an ASCII text that differs from the one learned in the digits of its clock alone; NO_TIME for
    another, and where a clock without a date falls back by half a day, which begins another day.

    There are eight bytes and more in `data` after the text.
    """
    length = numbers[0]
    if length == 0 or end - begin != length:
        return NO_TIME
    differs = np.uint64(0)
    for i in range(np.uint64((length + 7) >> 3)):
        word = word_at(data, np.uint64(begin) + (i << np.uint64(3)))
        differs |= ((word ^ text[i]) & is_fixed[i]) | (((word ^ _ZEROS) + _ABOVE_NINE) & is_digit[i])
    if differs != 0:
        return NO_TIME
    hour, minute, second, fraction = begin + numbers[1], begin + numbers[2], begin + numbers[3], begin + numbers[4]
    hours, minutes, seconds = _two_digits(data, hour), _two_digits(data, minute), _two_digits(data, second)
    if hours > 24 or minutes > 59 or seconds > 60:
        return NO_TIME
    parts = 0
    for i in range(fraction, fraction + numbers[5]):
        parts = parts * 10 + data[np.uint64(i)] - 48
    clock = np.int64(hours * 3600 + minutes * 60 + seconds) * 1_000_000_000 + np.int64(parts) * numbers[6]
    if numbers[8]:
        if clock < max(last_clock[0], numbers[9]) - HALF_DAY:
            return NO_TIME
        last_clock[0] = clock
    return int(numbers[7] + clock)


@compiled
def _two_digits(data: np.ndarray, at: int) -> int:
    place = np.uint64(at)
    return int((data[place] - 48) * 10 + data[place + np.uint64(1)] - 48)


@inlined
def key_in(
    code: np.ndarray,
    sets: np.ndarray,
    captures: np.ndarray,
    stack: np.ndarray,
    first: np.ndarray,
    is_anchored: bool,
    n_groups: int,
    data: np.ndarray,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Where the key stands that `session_keys.find_by_regex` finds in a line; (0, 0) for none, (GAVE_UP, 0)."""
    found, after = search(code, sets, captures, stack, first, is_anchored, data, begin, end)
    if found == GAVE_UP:
        return GAVE_UP, 0
    if found < 0:
        return 0, 0
    if n_groups == 0:
        return found, after
    for group in range(1, n_groups + 1):
        if captures[2 * group] >= 0:
            return captures[2 * group], captures[2 * group + 1]
    return 0, 0
