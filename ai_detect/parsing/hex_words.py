"""Hexadecimal words, such as random identifiers, and how their digits are made equal in shapes (byte_shapes.py).

Such a word would make a shape of its own each time. One that our own HEX masks match and nothing else can is always
matched alike, whatever its digits are. A mask that begins before it does not see them either: after what may stand
before the word here (`_may_precede`), no mask goes on with digits of it, or it goes on with all letters and digits.
"""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.byte_words import lowest_bit, range_bits
from ai_detect.ingest.compiled import compiled

#: What stands for a digit of a word after 0x, and of another word; ASCII has neither.
_AFTER_0X, _OF_WORD = np.uint8(0xFE), np.uint8(0xFF)
#: Places of which one look at 64 bytes tells whether eight hexadecimal digits begin there.
_PLACES = np.uint64(56)
_OF_PLACES = (np.uint64(1) << _PLACES) - np.uint64(1)
_ALL, _NONE, _ONE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0), np.uint64(1)
_MOST = np.uint64(64)


@compiled
def _run(bits: np.uint64) -> np.uint64:
    """How many bits from the lowest on are set."""
    return _MOST if bits == _ALL else np.uint64(lowest_bit(~bits))


@compiled
def _below(n: np.uint64) -> np.uint64:
    """The lowest n bits."""
    return _ALL if n >= _MOST else (_ONE << n) - _ONE


@compiled
def hex_word_end(data: np.ndarray, begin: int, end: int) -> int:
    """Where the word of eight to 63 hexadecimal digits ends that begins here and that nothing but its mask can match;
    `begin` where it is none, or may be something else. Which digits they are does not matter, nor which byte begins
    0x. 64 bytes from `begin` on can be read.
    """
    at = np.uint64(begin)
    inside = _below(np.uint64(end - begin))
    digits = range_bits(data, at, 0, 48, 10) & inside
    small, capital = range_bits(data, at, 0, 97, 6) & inside, range_bits(data, at, 0, 65, 6) & inside
    length = _run(digits | small | capital)
    word = _below(length)
    letters = (small & word != _NONE) != (capital & word != _NONE)
    if length < np.uint64(8) or length == _MOST or not letters or digits & word == _NONE:
        return begin
    last = begin + np.int64(length)
    if last < end:
        after = data[np.uint64(last)]
        if _is_alnum(after) or (length == np.uint64(8) and after == 45):  # -, as in a UUID
            return begin
    n_first = _run(digits)
    if n_first > _NONE:  # a number may have an exponent of up to three digits, and one letter as its unit
        n_more = np.uint64(1) + _run(digits >> (n_first + _ONE))
        has_exponent = data[at + n_first] | 32 == 101  # e
        if n_first + (n_more if has_exponent else _NONE) + _ONE >= length:
            return begin
    return int(last)


@compiled
def hide_hex_words(shape: np.ndarray, end: int) -> None:
    """Make hexadecimal words equal in the first `end` bytes of shapes, after which 64 more can be read."""
    at, last, before = np.uint64(0), np.uint64(end), np.uint64(0)
    while at < last:
        digits = range_bits(shape, at, 0, 48, 10)
        words = digits | range_bits(shape, at, 32, 97, 26)
        digits |= range_bits(shape, at, 32, 97, 6)
        by_two = digits & (digits >> np.uint64(1))
        by_four = by_two & (by_two >> np.uint64(2))
        before_x = range_bits(shape, at, 32, 120, 1) >> _ONE
        found = (by_four & (by_four >> np.uint64(4))) | (range_bits(shape, at, 0, 48, 1) & before_x)
        found &= ~((words << _ONE) | before) & _OF_PLACES
        before = (words >> (_PLACES - _ONE)) & _ONE
        while found != 0:
            begin = int(at + lowest_bit(found))
            found &= found - _ONE
            if begin < end:
                _hide(shape, begin, end)
        at += _PLACES


@compiled
def _hide(shape: np.ndarray, begin: int, end: int) -> None:
    """Make the word equal that begins here."""
    previous = int(shape[np.uint64(begin - 1)]) if begin > 0 else 32
    before = int(shape[np.uint64(begin - 2)]) if begin > 1 else 32
    if begin + 2 < end and shape[np.uint64(begin + 1)] | 32 == 120:  # x
        first = np.uint64(begin + 2)
        inside = _below(np.uint64(end - begin - 2))
        length = _run((range_bits(shape, first, 0, 48, 10) | range_bits(shape, first, 32, 97, 6)) & inside)
        last = np.int64(first + length)
        is_word = _NONE < length < _MOST and (last >= end or not _is_alnum(shape[np.uint64(last)]))
        if is_word and previous != 45 and previous != 95:  # - _, as in an identifier
            for i in range(first, np.uint64(last)):
                shape[i] = _AFTER_0X
    elif _may_precede(previous, before):
        for i in range(np.uint64(begin), np.uint64(hex_word_end(shape, begin, end))):
            shape[i] = _OF_WORD


@compiled
def _may_precede(previous: int, before: int) -> bool:
    """Whether after these two bytes a word may be hidden. A colon is not one of an IPv6 address, which would look for
    a digit beyond it: that only where "::" or letters of one stand before.
    """
    if previous == 58:  # :
        return before < 128 and before != 58 and not 97 <= before | 32 <= 102  # a to f
    return previous <= 32 or previous == 61 or previous == 40  # = (


@compiled
def _is_alnum(byte: int) -> bool:
    return 48 <= byte <= 57 or 97 <= byte | 32 <= 122
