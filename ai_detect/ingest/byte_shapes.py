"""Shapes: what patterns find in a text is known from any other text of its shape.

Two texts are of one shape where they differ in nothing but digits, and only in such as no pattern tells apart. A
pattern sees a text as a row of members and others of its character classes, so in both it finds the same spans. A class
of some digits alone is allowed where one of a few bytes must follow (`0[xX]`): before these a digit stays what it is.
Who knows more of the patterns may make more bytes equal, as hexadecimal words are by parsing/hex_words.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ai_detect.ingest import byte_machine as machine
from ai_detect.ingest.byte_dictionary import NO_ROOM, hash_of, number_of_hashed
from ai_detect.ingest.byte_machine import Program
from ai_detect.ingest.compiled import compiled, inlined

#: Longer texts have no shape: they are seldom seen twice.
LONGEST_SHAPE = 1_024
#: A text without a shape.
NO_SHAPE = NO_ROOM
_SEEN_BITS = 12
_ZERO, _NINE, _ANY_DIGIT = np.uint8(48), np.uint8(57), np.uint8(49)
_NO_BYTE, _BEYOND_ASCII = 255, np.uint8(128)
_HEX_DIGITS = b"0123456789ABCDEFabcdef"
_LINE_ENDS = b"\r\n"


def told_apart_before(programs: Sequence[Program]) -> np.ndarray | None:
    """Two bytes, (2,) uint8, before which these programs may tell digits apart; None where they do so elsewhere."""
    before: set[int] = set()
    for program in programs:
        code, sets = program.code, program.sets
        digits = sets[:, _ZERO : _NINE + 1]
        apart = np.logical_and(digits.any(axis=1), ~digits.all(axis=1))
        for at, (operation, number) in enumerate(code[:, :2].tolist()):
            if operation == machine.BACKREF:
                return None
            if operation not in machine.OF_A_CLASS or not apart[number]:
                continue
            following = int(code[at + 1, 1])
            if operation != machine.SET or code[at + 1, 0] != machine.SET or digits[following].any():
                return None
            before.update(np.flatnonzero(sets[following]).tolist())
    if len(before) > 2 or not before.isdisjoint(_LINE_ENDS):  # a line's last digit is seen with what follows the line
        return None
    return np.array([*sorted(before), _NO_BYTE, _NO_BYTE][:2], np.uint8)


def tells_hex_apart(programs: Sequence[Program]) -> bool:
    """Whether hexadecimal digits are not all the same for these programs."""
    classes = [program.sets[:, list(_HEX_DIGITS)] for program in programs]
    return any((members.any(axis=1) != members.all(axis=1)).any() for members in classes)


@compiled
def put_shape(data: np.ndarray, before: np.ndarray, shape: np.ndarray) -> None:
    """Write the shape of bytes; all beyond ASCII are one. The loop becomes vector instructions."""
    if len(data) == 0:
        return
    source, following = data[:-1], data[1:]
    first, second = before[0], before[1]
    for i in range(len(source)):
        byte = source[i]
        is_any = (byte >= _ZERO) & (byte <= _NINE) & (following[i] != first) & (following[i] != second)
        shape[i] = _ANY_DIGIT if is_any else min(byte, _BEYOND_ASCII)
    last = data[len(source)]
    shape[len(source)] = _ANY_DIGIT if _ZERO <= last <= _NINE else min(last, _BEYOND_ASCII)


@inlined
def shape_number(
    shapes: np.ndarray,
    begin: int,
    length: int,
    slots: np.ndarray,
    hashes: np.ndarray,
    spans: np.ndarray,
    words: np.ndarray,
    used: np.ndarray,
    seen: np.ndarray,
) -> int:
    """The number of the shape that lies in these bytes of `shapes`, in a `ByteDictionary` (the five before the last);
    NO_SHAPE where there is no room for it, or it is seen for the first time, as most shapes are that are seen once.
    `seen` are hashes of late.
    """
    value = hash_of(shapes, begin, length)
    place = value >> np.uint64(64 - _SEEN_BITS)
    adds = seen[place] == value
    seen[place] = value
    return number_of_hashed(slots, hashes, spans, words, used, shapes, begin, length, value, adds)


def nothing_seen() -> np.ndarray:
    """Hashes of shapes that were seen, which new ones take the places of."""
    return np.zeros(1 << _SEEN_BITS, np.uint64)
