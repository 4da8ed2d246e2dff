"""Several bytes at once in compiled code, for which numba has no expression: loads of 8 and comparisons of 64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

from ai_detect.ingest.compiled import compiled

#: So many bytes may be read after the last that is wanted.
SLACK = 64
_AT_ONCE = np.uint64(SLACK)


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = extending.intrinsic(function)
    return made


@_intrinsic
def word_at(typing_context: Any, data: Any, at: Any) -> Any:
    """The eight bytes of an array of bytes that begin at a place, the first one lowest; all must be in the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments)
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.uint64), generate


@_intrinsic
def range_bits(typing_context: Any, data: Any, at: Any, fold: Any, low: Any, n: Any) -> Any:
    """Which of the 64 bytes from a place on are one of n from `low` on, with the bits of `fold` set in them: bit i
    stands for byte i.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, places = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(32), 64)
        nothing, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)

        def everywhere(byte: Any) -> Any:
            one = builder.insert_element(nothing, byte, first)
            return builder.shuffle_vector(one, nothing, ir.Constant(places, [0] * 64))

        fold, low, n = map(everywhere, arguments[2:])
        place = builder.bitcast(_place(context, builder, signature, arguments), vector.as_pointer())
        folded = builder.or_(builder.load(place, align=1), fold)
        found = builder.icmp_unsigned("<", builder.sub(folded, low), n)
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(data, types.uint64, types.uint8, types.uint8, types.uint8), generate


@_intrinsic
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; there must be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@compiled
def last_word(data: np.ndarray, at: int, n: int) -> np.uint64:
    """As `word_at`, of 1 to 7 bytes; the others are 0."""
    if at + 8 <= len(data):
        of_these = (np.uint64(1) << np.uint64(8 * n)) - np.uint64(1)
        return np.uint64(word_at(data, at) & of_these)
    word = np.uint64(0)
    for i in range(n):
        word |= np.uint64(data[np.uint64(at + i)]) << np.uint64(8 * i)
    return word


@compiled
def places_of(byte: int, data: np.ndarray, begin: int, end: int, places: np.ndarray, n: int) -> int:
    """Write where a byte stands in `data[begin:end]` after the first n of `places`; returns how many these are then."""
    wanted, at, last, found = np.uint8(byte), np.uint64(begin), np.uint64(end), np.uint64(n)
    while at + _AT_ONCE <= last:
        bits = range_bits(data, at, 0, wanted, 1)
        while bits != 0:
            places[found] = at + lowest_bit(bits)
            found += np.uint64(1)
            bits &= bits - np.uint64(1)
        at += _AT_ONCE
    while at < last:
        if data[at] == wanted:
            places[found] = at
            found += np.uint64(1)
        at += np.uint64(1)
    return int(found)
