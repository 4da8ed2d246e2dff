"""Distinct byte strings, numbered in order of appearance, for compiled code: exact, with no string ever forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.compiled import compiled, inlined

#: The number of a string for which there is no room: `ByteDictionary.grow` and try again.
NO_ROOM = -1

_FIRST_SLOTS = 1 << 10
_FIRST_WORDS = 1 << 13
#: Strings that are read at once; only memory depends on it.
_READ_AT_ONCE = 1 << 14


class DictionaryArrays(NamedTuple):
    """A hash table with open addressing; strings lie in words of eight bytes, padded with zeros."""

    slots: np.ndarray  # (a power of two,) int32: number of a string, -1 where the slot is free
    hashes: np.ndarray  # (half as many,) uint64, by number
    begins: np.ndarray  # (half as many,) int64: first word of a string, by number
    lengths: np.ndarray  # (half as many,) int64: bytes
    words: np.ndarray  # uint64
    used: np.ndarray  # (2,) int64: strings, words


class ByteDictionary:
    """The strings and their numbers; `arrays` is handed to compiled code, anew after each `grow`."""

    def __init__(self) -> None:
        self.arrays = empty_dictionary(_FIRST_SLOTS, _FIRST_WORDS)
        self._buffer = np.zeros(1 << 10, np.uint64)

    def __len__(self) -> int:
        return int(self.arrays.used[0])

    def __getitem__(self, number: int) -> bytes:
        begin, length = int(self.arrays.begins[number]), int(self.arrays.lengths[number])
        return self.arrays.words[begin : begin + -(-length // 8)].tobytes()[:length]

    def __iter__(self) -> Iterator[bytes]:
        begins, lengths = self.arrays.begins, self.arrays.lengths
        for block in scratch.blocks(len(self), _READ_AT_ONCE):
            first, last = int(begins[block.start]), block.stop - 1
            end = int(begins[last] + -(-lengths[last] // 8))
            content = self.arrays.words[first:end].tobytes()
            for begin, length in zip((begins[block] - first).tolist(), lengths[block].tolist(), strict=True):
                yield content[8 * begin : 8 * begin + length]

    def number(self, string: bytes) -> int:
        """The number of a string, a new one where it was not seen before."""
        n_words = -(-len(string) // 8)
        if n_words > len(self._buffer):
            self._buffer = np.zeros(2 * n_words, np.uint64)
        if n_words:
            self._buffer[n_words - 1] = 0
        self._buffer.view(np.uint8)[: len(string)] = np.frombuffer(string, np.uint8)
        while (found := int(number_of(*self.arrays, self._buffer, len(string)))) == NO_ROOM:
            self.grow()
        return found

    def grow(self) -> None:
        """Make room for at least as many strings, and bytes, as there are."""
        old = self.arrays
        n, n_words = (int(used) for used in old.used)
        new = empty_dictionary(2 * len(old.slots), 2 * len(old.words))
        for name in ("hashes", "begins", "lengths"):
            getattr(new, name)[:n] = getattr(old, name)[:n]
        new.words[:n_words] = old.words[:n_words]
        new.used[:] = old.used
        _fill(new.slots, new.hashes, n)
        self.arrays = new


def empty_dictionary(n_slots: int, n_words: int) -> DictionaryArrays:
    """A table for half as many strings as it has slots, a power of two."""
    half = n_slots // 2
    slots = scratch.zeros(n_slots, np.int32)
    slots[:] = -1
    return DictionaryArrays(
        slots,
        scratch.zeros(half, np.uint64),
        scratch.zeros(half, np.int64),
        scratch.zeros(half, np.int64),
        scratch.zeros(n_words, np.uint64),
        np.zeros(2, np.int64),
    )


@compiled
def _fill(slots: np.ndarray, hashes: np.ndarray, n: int) -> None:
    """Put the first n strings into an empty table."""
    last = np.uint64(len(slots) - 1)
    for number in range(n):
        slot = hashes[number] & last
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = number


@compiled
def hash_of(words: np.ndarray, length: int) -> np.uint64:
    """A hash of 64 bits of so many bytes, in four parts that do not wait for each other."""
    n_words = (length + 7) >> 3
    a, b, c, d = np.uint64(length), np.uint64(1), np.uint64(2), np.uint64(3)
    by_four = n_words & ~3
    for i in range(0, by_four, 4):
        a = _mixed(a, words[np.uint64(i)])
        b = _mixed(b, words[np.uint64(i + 1)])
        c = _mixed(c, words[np.uint64(i + 2)])
        d = _mixed(d, words[np.uint64(i + 3)])
    for i in range(by_four, n_words):
        a = _mixed(a, words[np.uint64(i)])
    if by_four:
        a = _mixed(_mixed(_mixed(a, b), c), d)
    a *= np.uint64(0x94D049BB133111EB)
    return a ^ (a >> np.uint64(29))


@compiled
def _mixed(value: np.uint64, word: np.uint64) -> np.uint64:
    value = (value ^ word) * np.uint64(0xBF58476D1CE4E5B9)
    return value ^ (value >> np.uint64(32))


@compiled
def number_of(
    slots: np.ndarray,
    hashes: np.ndarray,
    begins: np.ndarray,
    lengths: np.ndarray,
    words: np.ndarray,
    used: np.ndarray,
    string: np.ndarray,
    length: int,
) -> int:
    """The number of the string in the first `length` bytes of these words, whose last is padded with zeros; NO_ROOM
    where it is new and there is none for it. The first six are a `DictionaryArrays`; a tuple of arrays would be taken
    apart at each call, which costs as much as the search.
    """
    value = hash_of(string, length)
    return number_of_hashed(slots, hashes, begins, lengths, words, used, string, length, value, True)


@inlined
def number_of_hashed(
    slots: np.ndarray,
    hashes: np.ndarray,
    begins: np.ndarray,
    lengths: np.ndarray,
    words: np.ndarray,
    used: np.ndarray,
    string: np.ndarray,
    length: int,
    value: np.uint64,
    adds: bool,
) -> int:
    """`number_of` a string whose `hash_of` is known; NO_ROOM for a new one too where it `adds` none."""
    n_words = (length + 7) >> 3
    last = np.uint64(len(slots) - 1)
    slot = value & last
    while slots[slot] >= 0:
        number = slots[slot]
        if hashes[number] == value and lengths[number] == length:
            begin = begins[number]
            differ = np.uint64(0)
            for i in range(n_words):
                differ |= words[np.uint64(begin + i)] ^ string[np.uint64(i)]
            if differ == 0:
                return int(number)
        slot = (slot + np.uint64(1)) & last
    number = used[0]
    if not adds or number >= len(begins) or used[1] + n_words > len(words):
        return NO_ROOM
    slots[slot] = number
    hashes[number] = value
    begins[number] = used[1]
    lengths[number] = length
    for i in range(n_words):
        words[np.uint64(used[1] + i)] = string[np.uint64(i)]
    used[0] += 1
    used[1] += n_words
    return int(number)
