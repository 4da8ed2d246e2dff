"""Our own masks in compiled code: rules that a reader can check decide the usual cases at once."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.byte_kinds import (
    ALNUM,
    DIGIT,
    ENDS_NUMBER,
    ENDS_WORD,
    HEX_DIGIT,
    ID_PART,
    KINDS,
    PATH_PART,
    SCHEME_PART,
    run_end,
)
from ai_detect.parsing.hex_words import hex_word_end
from ai_detect.parsing.masking import DEFAULT_MASKS


def _pattern_number(name: str, nth: int = 0) -> int:
    return [i for i, (known, _) in enumerate(DEFAULT_MASKS.patterns) if known == name][nth]


_NUM, _IP, _PATH = _pattern_number("NUM"), _pattern_number("IP"), _pattern_number("PATH")
_DATE, _UUID, _MAC = 1 << _pattern_number("TIME", 2), 1 << _pattern_number("UUID"), 1 << _pattern_number("MAC")
_IPV6 = 1 << _pattern_number("IP", 1) | 1 << _pattern_number("IP", 2)
_HEX, _HEX_WORD = _pattern_number("HEX"), _pattern_number("HEX", 1)
_LONG_HEX, _EMAIL, _URL = 1 << _pattern_number("HEX", 1), 1 << _pattern_number("EMAIL"), 1 << _pattern_number("URL")
_ID, _DRIVE = 1 << _pattern_number("ID"), 1 << _pattern_number("PATH", 1)


@compiled
def default_match(data: np.ndarray, at: int, end: int, live: int) -> tuple[int, int]:
    """Where the match of our own masks that begins here ends, and which pattern it is; (0, 0) where there is none, and
    (-1, patterns) where only these can match. Before `at` stands no letter nor digit.
    """
    byte = data[at]
    kind = KINDS[byte]
    signed = byte == 43 or byte == 45  # + -
    if kind & DIGIT or (signed and at + 1 < end and KINDS[data[at + 1]] & DIGIT):
        begin = at + 1 if signed else at
        last = run_end(data, begin, end, DIGIT)
        n_digits = last - begin
        if last == end:
            return last, _NUM
        after = data[last]
        if KINDS[after] & ENDS_NUMBER:
            return last, _NUM
        if after == 47 and (signed or n_digits != 2):  # / but of a date such as 01/Jan/2024
            return last, _NUM
        if after == 45 and (signed or n_digits not in (2, 4, 8)):  # - but of a MAC, a date, a UUID
            return last, _NUM
        if after == 46 or after == 44:  # . ,
            second = run_end(data, last + 1, end, DIGIT)
            if second == last + 1:
                return last, _NUM
            if second == end or KINDS[data[second]] & ENDS_NUMBER:
                return second, _NUM
            if after == 46 and data[second] == 46 and not signed:
                third = run_end(data, second + 1, end, DIGIT)
                if third < end and data[third] == 46:
                    fourth = run_end(data, third + 1, end, DIGIT)
                    short = n_digits < 4 and second - last < 5 and third - second < 5 and fourth - third < 5
                    if short and third > second + 1 and fourth > third + 1:
                        if fourth == end:
                            return fourth, _IP
                        if data[fourth] == 58:  # :
                            port = run_end(data, fourth + 1, end, DIGIT)
                            ends = port == end or not KINDS[data[port]] & ALNUM
                            if fourth + 1 < port < fourth + 7 and ends:
                                return port, _IP
                        elif not KINDS[data[fourth]] & ALNUM:
                            return fourth, _IP
        if signed:
            return -1, live
        if byte == 48 and n_digits == 1 and (after | 32) == 120:  # 0x
            hexadecimal = run_end(data, last + 1, end, HEX_DIGIT)
            if hexadecimal > last + 1 and (hexadecimal == end or not KINDS[data[hexadecimal]] & ALNUM):
                return hexadecimal, _HEX
    if kind & ALNUM:
        if kind & HEX_DIGIT and live & _LONG_HEX:
            last = hex_word_end(data, at, end)
            if last > at:
                return last, _HEX_WORD
        word = at
        while word < end and KINDS[data[word]] & ALNUM and not KINDS[data[word]] & DIGIT:
            word += 1
        if word > at and (word == end or KINDS[data[word]] & ENDS_WORD):
            return (-1, live & _DATE) if word == at + 3 and live & _DATE else (0, 0)
        possible = live
        hexadecimal = run_end(data, at, end, HEX_DIGIT)
        n_hex = hexadecimal - at
        after = data[hexadecimal] if hexadecimal < end else 0
        if n_hex != 8 or after != 45:
            possible &= ~_UUID
        if n_hex != 2 or (after != 45 and after != 58):
            possible &= ~_MAC
        if not 1 <= n_hex <= 4 or after != 58:
            possible &= ~_IPV6
        if n_hex < 8:
            possible &= ~_LONG_HEX
        if word > at:
            possible &= ~_DATE  # three letters and a comma or blank: told above
            if word != at + 1 or data[word] != 58:
                possible &= ~_DRIVE
            scheme = run_end(data, at, end, SCHEME_PART)
            if scheme - at > 16 or scheme + 2 >= end or data[scheme] != 58 or data[scheme + 1] != 47:
                possible &= ~_URL
        if possible & _ID and run_end(data, at, end, ID_PART) - at < 20:
            possible &= ~_ID
        return (-1, possible) if possible else (0, 0)
    if byte == 47:  # /
        parts = 0
        last = at
        while True:
            name = run_end(data, last + 1, end, PATH_PART)
            if name == last + 1:
                return (name, _PATH) if parts > 1 else (0, 0)
            parts += 1
            last = name
            if last == end or data[last] != 47:
                return (last, _PATH) if parts > 1 else (0, 0)
    if (byte == 45 or byte == 95) and not live & _EMAIL and run_end(data, at, end, ID_PART) - at < 20:  # - _
        return 0, 0
    return -1, live
