"""What bytes are as a value: `values.number_and_word` and `values.hash_of` in compiled code."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.byte_kinds import DIGIT, KINDS, run_end

_POWERS = 10.0 ** np.arange(23)
#: Powers of ten beyond which a whole number of 19 digits, and so its value, is no float32, or 0.
_MOST_EXPONENT, _LEAST_EXPONENT = 38, -70


#: Bytes that are hashed at once.
_AT_ONCE = 16
_ALL_BITS = np.uint32(0xFFFFFFFF)
#: What is known of values from another of the same shape: nothing, a whole number, an address with a port, a word.
ANY_VALUE, INTEGER, PORT, WORD = range(4)
#: Digits of which a double holds every number.
_EXACT_DIGITS = 15


def _crc_tables() -> np.ndarray:
    """What a byte with n bytes after it adds to a CRC-32, (n, byte): added up, they take no turns."""
    tables = np.zeros((_AT_ONCE, 256), np.uint32)
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    tables[0] = table
    for n in range(1, _AT_ONCE):
        tables[n] = (tables[n - 1] >> 8) ^ table[tables[n - 1] & 255]
    return tables


_CRC = _crc_tables()


@compiled
def hash_bytes(data: np.ndarray, begin: int, end: int) -> int:
    """`values.hash_of` of UTF-8."""
    crc = _ALL_BITS
    at = begin
    while end - at >= 4:
        n = min(end - at, _AT_ONCE)
        total = np.uint32(0)
        for i in range(4):
            total ^= _CRC[np.uint64(n - 1 - i), (np.uint32(data[np.uint64(at + i)]) ^ crc) & np.uint32(255)]
            crc >>= np.uint32(8)
        for i in range(4, n):
            total ^= _CRC[np.uint64(n - 1 - i), data[np.uint64(at + i)]]
        crc = total
        at += n
    for i in range(at, end):
        crc = _CRC[0, (np.uint32(data[i]) ^ crc) & np.uint32(255)] ^ (crc >> np.uint32(8))
    return int(crc ^ _ALL_BITS)


@compiled
def _whole_number(data: np.ndarray, begin: int, end: int) -> float:
    whole = np.int64(0)
    for i in range(begin, end):
        whole = whole * 10 + (np.int64(data[np.uint64(i)]) - 48)
    return np.float64(whole)


@compiled
def kind_of_value(data: np.ndarray, begin: int, end: int) -> int:
    """What is known of values that differ from this one in digits alone, or as hexadecimal words without exponent."""
    first_digit = begin + (data[begin] == 43 or data[begin] == 45)  # + -
    digits_end = run_end(data, first_digit, end, DIGIT)
    if digits_end == end and first_digit == begin and end - begin <= _EXACT_DIGITS:
        return INTEGER
    colon = begin
    while colon < end and data[colon] != 58:
        colon += 1
    _, number, _ = value_of(data, begin, end)
    if not np.isnan(number):
        is_clock = run_end(data, colon + 1, end, DIGIT) < end
        return PORT if colon < end and not is_clock else ANY_VALUE
    body = first_digit
    while body < end and (KINDS[data[body]] & DIGIT or data[body] == 44 or data[body] == 46):  # , .
        body += 1
    is_word = digits_end == first_digit or (body < end and data[body] | 32 != 101)  # e, of an exponent
    return WORD if colon < end or is_word else ANY_VALUE


@compiled
def value_of(data: np.ndarray, begin: int, end: int) -> tuple[bool, float, int]:
    """`values.number_and_word` and `values.hash_of` of ASCII bytes: whether they can be told here, number, hash.

    The number is right as a float32.
    """
    if end - begin <= _EXACT_DIGITS and run_end(data, begin, end, DIGIT) == end:
        return True, _whole_number(data, begin, end), hash_bytes(data, begin, end)
    number = np.nan
    word_end = end
    colon = begin
    while colon < end and data[colon] != 58:
        colon += 1
    if colon < end:
        at, groups = begin, 0
        while groups < 4:
            last = run_end(data, at, end, DIGIT)
            if not 1 <= last - at <= 3 or last == end or data[last] != (46 if groups < 3 else 58):
                break
            groups += 1
            at = last + 1
        if groups == 4 and 1 <= end - at <= 5 and run_end(data, at, end, DIGIT) == end:
            number, word_end = 0.0, at - 1
            for i in range(at, end):
                number = number * 10 + (data[i] - 48)
        elif (
            1 <= colon - begin <= 2
            and end - colon >= 6
            and run_end(data, begin, colon, DIGIT) == colon
            and run_end(data, colon + 1, end, DIGIT) == colon + 3
            and data[colon + 3] == 58
        ):
            second = colon + 4
            last = run_end(data, second, end, DIGIT)
            fraction_end = last
            if last == second + 2 and last < end and (data[last] == 46 or data[last] == 44):
                fraction_end = run_end(data, last + 1, end, DIGIT)
            if last == second + 2 and fraction_end == end and (last == end or 1 <= end - last - 1 <= 9):
                hours = 0
                for i in range(begin, colon):
                    hours = hours * 10 + (data[i] - 48)
                minutes = (data[colon + 1] - 48) * 10 + (data[colon + 2] - 48)
                parts = 0
                for i in range(second, end):
                    if i != last:
                        parts = parts * 10 + (data[i] - 48)
                seconds = parts / _POWERS[max(0, end - last - 1)]
                number = np.float64(hours * 3600 + minutes * 60) + seconds
    else:
        at = begin
        negative = data[at] == 45
        if negative or data[at] == 43:
            at += 1
        last = run_end(data, at, end, DIGIT)
        if last > at:
            commas, dots, n_digits = 0, 0, 0
            digits = np.uint64(0)
            since, after_dot, even = 0, 0, True
            body = at
            while body < end:
                byte = data[body]
                if byte == 44:
                    even = even and (since == 3 if commas else 1 <= since <= 3) and dots == 0
                    commas += 1
                    since = 0
                elif byte == 46:
                    even = even and (commas == 0 or since == 3)
                    dots += 1
                    since = 0
                elif KINDS[byte] & DIGIT:
                    digits = digits * np.uint64(10) + np.uint64(byte - 48)
                    n_digits += 1
                    since += 1
                else:
                    break
                body += 1
            exponent = 0
            is_number = since > 0
            thousands = is_number and even and commas > 0 and dots <= 1 and body == end and data[at] != 48
            if thousands and dots == 0:
                thousands = since == 3
            if thousands:
                after_dot = since if dots else 0
            else:
                is_number = is_number and commas + dots <= 1
                after_dot = since if commas + dots else 0
                if is_number and body < end:
                    if data[body] == 69 or data[body] == 101:  # E e
                        power = body + 1
                        minus = power < end and data[power] == 45
                        if power < end and (minus or data[power] == 43):
                            power += 1
                        if 1 <= end - power <= 3 and run_end(data, power, end, DIGIT) == end:
                            for i in range(power, end):
                                exponent = exponent * 10 + (data[i] - 48)
                            if minus:
                                exponent = -exponent
                        else:
                            is_number = False
                    else:
                        is_number = False
            if is_number:
                exponent -= after_dot
                if n_digits > 19 or (n_digits == 19 and exponent != 0):
                    return False, 0.0, 0
                number = np.float64(digits)
                if digits != 0 and exponent > _MOST_EXPONENT:
                    number = np.inf
                elif digits != 0 and exponent < _LEAST_EXPONENT:
                    number = 0.0
                elif exponent != 0 and digits != 0:
                    # one correctly rounded operation on exact numbers, as a decimal is read
                    if digits >= np.uint64(1 << 53) or not -22 <= exponent <= 22:
                        return False, 0.0, 0
                    number = number * _POWERS[exponent] if exponent > 0 else number / _POWERS[-exponent]
                if negative:
                    number = -number
    return True, number, hash_bytes(data, begin, word_end)


@compiled
def known_value(data: np.ndarray, begin: int, end: int, kind: int) -> tuple[bool, float, int]:
    """`value_of` bytes of a known kind."""
    if kind == ANY_VALUE:
        return value_of(data, begin, end)
    if kind == INTEGER:
        return True, _whole_number(data, begin, end), hash_bytes(data, begin, end)
    number = np.nan
    word_end = end
    if kind == PORT:
        port, scale = np.int64(0), np.int64(1)
        word_end = end - 1
        while data[np.uint64(word_end)] != 58:
            port += scale * (np.int64(data[np.uint64(word_end)]) - 48)
            scale *= 10
            word_end -= 1
        number = np.float64(port)
    return True, number, hash_bytes(data, begin, word_end)
