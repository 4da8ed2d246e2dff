"""Distinct byte strings, numbered in order of appearance, for compiled code: exact, with no string ever forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.byte_words import last_word, word_at
from ai_detect.ingest.compiled import compiled, copy_bytes, inlined
from ai_detect.tables import Int32Array, Int64Array, StringColumn

#: The number of a string for which there is no room: `ByteDictionary.grow` and try again.
NO_ROOM = -1

_FIRST_SLOTS = 1 << 15
_FIRST_WORDS = 1 << 16
#: Strings that are read at once; only memory depends on it.
_READ_AT_ONCE = 1 << 14
#: The half of a hash that a slot keeps.
_TAG = np.uint64(0xFFFFFFFF00000000)


class DictionaryArrays(NamedTuple):
    """A hash table with open addressing; strings lie in words of eight bytes, padded with zeros."""

    slots: np.ndarray  # (a power of two,) uint64: number of a string + 1 and half of its hash, 0 where the slot is free
    hashes: np.ndarray  # (half as many,) uint64, by number
    spans: np.ndarray  # (half as many, 2) int64: first word of a string and its bytes, by number
    words: np.ndarray  # uint64
    used: np.ndarray  # (2,) int64: strings, words


class ByteDictionary:
    """The strings and their numbers; `arrays` is handed to compiled code, anew after each `grow`."""

    def __init__(self) -> None:
        self.arrays = _empty(_FIRST_SLOTS, _FIRST_WORDS)

    def __len__(self) -> int:
        return int(self.arrays.used[0])

    def __getitem__(self, number: int) -> bytes:
        begin, length = self.arrays.spans[number].tolist()
        return self.arrays.words[begin : begin + -(-length // 8)].tobytes()[:length]

    def strings(self) -> StringColumn:
        """All of them, which are UTF-8 with surrogates passed."""
        _, _, spans, words, _ = self.arrays
        content, n = scratch.Growing(np.uint8), len(self)
        for block in scratch.blocks(n, _READ_AT_ONCE):
            part = np.empty(int(spans[block, 1].sum()), np.uint8)
            _pack(spans[block], words.view(np.uint8), part)
            content.append(part)
        offsets = scratch.offsets_of(spans[:n, 1])
        return StringColumn(content.column(), offsets)

    def number(self, string: bytes) -> int:
        """The number of a string, a new one where it was not seen before."""
        return int(self._numbered(string, np.array([len(string)], np.int64))[0])

    def numbers(self, strings: Sequence[bytes]) -> Int32Array:
        """`number` of several strings, in this order."""
        return self._numbered(b"".join(strings), np.cumsum([len(string) for string in strings], dtype=np.int64))

    def _numbered(self, content: bytes, ends: Int64Array) -> Int32Array:
        data = np.frombuffer(bytearray(content), np.uint8)  # compiled code is made for what can be written
        found, n = np.empty(len(ends), np.int32), 0
        while (n := _number_all(self.arrays, data, ends, n, found)) < len(ends):
            self.grow()
        return found

    def numbers_or(self, nothing: int, strings: Sequence[str | None]) -> Int32Array:
        """`number` of several strings, `nothing` for None."""
        found = np.full(len(strings), nothing, np.int32)
        known = {i: string.encode("utf-8", "surrogatepass") for i, string in enumerate(strings) if string is not None}
        found[list(known)] = self.numbers(list(known.values()))
        return found

    def grow(self) -> None:
        """Make room for at least as many strings, and bytes, as there are."""
        old = self.arrays
        n, n_words = (int(used) for used in old.used)
        new = _empty(2 * len(old.slots), 2 * len(old.words))
        new.hashes[:n], new.spans[:n] = old.hashes[:n], old.spans[:n]
        new.words[:n_words] = old.words[:n_words]
        new.used[:] = old.used
        _fill(new.slots, new.hashes, n)
        self.arrays = new


def bounded_dictionary(n_strings: int, n_words: int) -> DictionaryArrays:
    """A table in plain memory for strings, a power of two, which may be forgotten."""
    return DictionaryArrays(
        np.zeros(2 * n_strings, np.uint64),
        np.empty(n_strings, np.uint64),
        np.empty((n_strings, 2), np.int64),
        np.empty(n_words, np.uint64),
        np.zeros(2, np.int64),
    )


def _empty(n_slots: int, n_words: int) -> DictionaryArrays:
    half = n_slots // 2
    return DictionaryArrays(
        scratch.zeros(n_slots, np.uint64),
        scratch.zeros(half, np.uint64),
        scratch.zeros(2 * half, np.int64).reshape(half, 2),
        scratch.zeros(n_words, np.uint64),
        np.zeros(2, np.int64),
    )


@compiled
def _fill(slots: np.ndarray, hashes: np.ndarray, n: int) -> None:
    """Put the first n strings into an empty table."""
    last = np.uint64(len(slots) - 1)
    for number in range(n):
        slot = hashes[number] & last
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = (hashes[number] & _TAG) | np.uint64(number + 1)


@compiled
def _pack(spans: np.ndarray, content: np.ndarray, out: np.ndarray) -> None:
    """Write strings one after another."""
    at = 0
    for i in range(len(spans)):
        begin = 8 * spans[i, 0]
        at += copy_bytes(content[begin : begin + spans[i, 1]], out[at:])


@compiled
def hash_of(data: np.ndarray, begin: int, length: int) -> np.uint64:
    """A hash of 64 bits of so many bytes, in four parts that do not wait for each other."""
    a, b, c, d = np.uint64(length), np.uint64(1), np.uint64(2), np.uint64(3)
    at, end = np.uint64(begin), np.uint64(begin + length)
    while at + np.uint64(32) <= end:
        a = _mixed(a, word_at(data, at))
        b = _mixed(b, word_at(data, at + np.uint64(8)))
        c = _mixed(c, word_at(data, at + np.uint64(16)))
        d = _mixed(d, word_at(data, at + np.uint64(24)))
        at += np.uint64(32)
    if at + np.uint64(8) <= end:
        b = _mixed(b, word_at(data, at))
        at += np.uint64(8)
    if at + np.uint64(8) <= end:
        c = _mixed(c, word_at(data, at))
        at += np.uint64(8)
    if at + np.uint64(8) <= end:
        d = _mixed(d, word_at(data, at))
        at += np.uint64(8)
    if at < end:
        a = _mixed(a, last_word(data, begin + (length & ~7), length & 7))
    if length >= 8:
        a = _mixed(_mixed(_mixed(a, b), c), d)
    a *= np.uint64(0x94D049BB133111EB)
    return a ^ (a >> np.uint64(29))


@compiled
def _mixed(value: np.uint64, word: np.uint64) -> np.uint64:
    value = (value ^ word) * np.uint64(0xBF58476D1CE4E5B9)
    return value ^ (value >> np.uint64(32))


@inlined
def number_of(
    slots: np.ndarray,
    hashes: np.ndarray,
    spans: np.ndarray,
    words: np.ndarray,
    used: np.ndarray,
    data: np.ndarray,
    begin: int,
    length: int,
) -> int:
    """The number of the string of so many bytes of `data`; NO_ROOM where it is new and there is none for it. The first
    five are a `DictionaryArrays`; a tuple of arrays would be taken apart at each call, which costs as much as the
    search.
    """
    value = hash_of(data, begin, length)
    return number_of_hashed(slots, hashes, spans, words, used, data, begin, length, value, True)


@inlined
def number_of_hashed(
    slots: np.ndarray,
    hashes: np.ndarray,
    spans: np.ndarray,
    words: np.ndarray,
    used: np.ndarray,
    data: np.ndarray,
    begin: int,
    length: int,
    value: np.uint64,
    adds: bool,
) -> int:
    """`number_of` a string whose `hash_of` is known; NO_ROOM for a new one too where it `adds` none."""
    n_whole, n_rest = np.uint64(length >> 3), length & 7
    at = np.uint64(begin)
    rest = last_word(data, begin + length - n_rest, n_rest) if n_rest else np.uint64(0)
    last = np.uint64(len(slots) - 1)
    slot = value & last
    while slots[slot] != 0:
        if (slots[slot] ^ value) & _TAG == 0:
            number = (slots[slot] & ~_TAG) - np.uint64(1)
            if spans[number, 1] == length:
                word = np.uint64(spans[number, 0])
                differ = np.uint64(0)
                for i in range(n_whole):
                    differ |= words[word + i] ^ word_at(data, at + (i << np.uint64(3)))
                if n_rest:
                    differ |= words[word + n_whole] ^ rest
                if differ == 0:
                    return np.int64(number)  # type: ignore[return-value]
        slot = (slot + np.uint64(1)) & last
    new = used[0]
    n_words = (length + 7) >> 3
    if not adds or new >= len(spans) or used[1] + n_words > len(words):
        return NO_ROOM
    slots[slot] = (value & _TAG) | np.uint64(new + 1)
    hashes[new] = value
    spans[new, 0], spans[new, 1] = used[1], length
    word = np.uint64(used[1])
    for i in range(n_whole):
        words[word + i] = word_at(data, at + (i << np.uint64(3)))
    if n_rest:
        words[word + n_whole] = rest
    used[0] += 1
    used[1] += n_words
    return int(new)


@compiled
def _number_all(dictionary: DictionaryArrays, data: np.ndarray, ends: np.ndarray, first: int, found: np.ndarray) -> int:
    """Number strings from the `first` on; returns the first for which there is no room, or how many there are."""
    slots, hashes, spans, words, used = dictionary
    for i in range(first, len(ends)):
        begin = ends[i - 1] if i > 0 else 0
        number = number_of(slots, hashes, spans, words, used, data, begin, ends[i] - begin)
        if number == NO_ROOM:
            return i
        found[i] = number
    return len(ends)
