"""What the rules of masks and values ask of a byte."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.compiled import compiled

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
DIGIT, ALNUM, HEX_DIGIT, ID_PART, PATH_PART, SCHEME_PART, ENDS_WORD, ENDS_NUMBER = (1 << i for i in range(8))


def _byte_kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        character = chr(byte)
        kinds[byte] |= DIGIT * (character in _DIGITS)
        kinds[byte] |= ALNUM * (character in _LETTERS + _DIGITS)
        kinds[byte] |= HEX_DIGIT * (character in _DIGITS + "ABCDEFabcdef")
        kinds[byte] |= SCHEME_PART * (character in _LETTERS + _DIGITS + "+.-")
        kinds[byte] |= ID_PART * (character in _LETTERS + _DIGITS + "_-")
        kinds[byte] |= PATH_PART * (character in _LETTERS + _DIGITS + "_.@%+=~$-")
        # No mask that begins with letters goes on with one of these, but for a date with "," or a blank.
        kinds[byte] |= ENDS_WORD * (character not in _LETTERS + _DIGITS + "._%+@:/\\-")
        # No mask before NUM goes on with one of these after digits, and NUM itself ends there.
        kinds[byte] |= ENDS_NUMBER * (character not in _LETTERS + _DIGITS + ".,:/-")
    return kinds


KINDS = _byte_kinds()


@compiled
def run_end(data: np.ndarray, begin: int, end: int, kind: int) -> int:
    """Where the bytes of this kind from here end."""
    while begin < end and KINDS[data[np.uint64(begin)]] & kind:
        begin += 1
    return begin
