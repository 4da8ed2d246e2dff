"""The fields of a line in compiled code: its time, and its session key."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.byte_machine import GAVE_UP, search
from ai_detect.ingest.compiled import compiled, copy_bytes, inlined
from ai_detect.ingest.timestamps import HALF_DAY
from ai_detect.tables import NO_TIME


@compiled
def time_of(
    data: np.ndarray,
    begin: int,
    end: int,
    text: np.ndarray,
    is_digit: np.ndarray,
    numbers: np.ndarray,
    last_clock: np.ndarray,
) -> int:
    """The time of a text that differs from the one learned in the digits of its clock alone; NO_TIME for another, and
    where a clock without a date falls back by half a day, which begins another day.
    """
    length = numbers[0]
    if length == 0 or end - begin != length:
        return NO_TIME
    for i in range(length):
        byte = data[begin + i]
        if is_digit[i]:
            if byte < 48 or byte > 57:
                return NO_TIME
        elif byte != text[i]:
            return NO_TIME
    hour, minute, second, fraction = begin + numbers[1], begin + numbers[2], begin + numbers[3], begin + numbers[4]
    hours = (data[hour] - 48) * 10 + data[hour + 1] - 48
    minutes = (data[minute] - 48) * 10 + data[minute + 1] - 48
    seconds = (data[second] - 48) * 10 + data[second + 1] - 48
    if hours > 24 or minutes > 59 or seconds > 60:
        return NO_TIME
    parts = 0
    for i in range(fraction, fraction + numbers[5]):
        parts = parts * 10 + data[i] - 48
    clock = np.int64(hours * 3600 + minutes * 60 + seconds) * 1_000_000_000 + np.int64(parts) * numbers[6]
    if numbers[8]:
        if clock < max(last_clock[0], numbers[9]) - HALF_DAY:
            return NO_TIME
        last_clock[0] = clock
    return int(numbers[7] + clock)


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


@inlined
def put_key(key: np.ndarray, out: np.ndarray) -> None:
    """Copy a key, and zeros to the end of its last word of eight bytes."""
    length = copy_bytes(key, out)
    for i in range(length, (length + 7) & ~7):
        out[i] = 0
