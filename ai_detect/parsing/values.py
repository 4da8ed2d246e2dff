"""What the variable parts of messages were, as numbers and hashes, put in the slots of each message's template.

A template has a slot for each of its masks and one for each of its wildcards, in order; the first `MAX_VALUES` are
kept. While a log is read only the values of masks are known (`MaskedValues`); which words are wildcards shows when the
templates are fixed (`SlotPlan`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ai_detect import scratch
from ai_detect.parsing.masking import WILDCARD
from ai_detect.tables import (
    MAX_VALUES,
    BoolArray,
    Float32Array,
    Float64Array,
    Int8Array,
    Int32Array,
    Int64Array,
    ValueTable,
    ragged_rows,
)

UInt32Array = NDArray[np.uint32]
UInt64Array = NDArray[np.uint64]

_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d{1,3})?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_CLOCK = re.compile(r"(\d\d?):(\d\d):(\d\d(?:[.,]\d{1,9})?)")
_ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):(\d{1,5})")
#: A word of one mask and a unit, such as "<NUM>ms" or "(<NUM>MB)"; durations in seconds, sizes in bytes.
_MEASURE = re.compile(r"[^\w<>]*<[^<>]+>([num\u00b5]?s|min|m|h|d|[kKMGT]i?[bB]?|B)[^\w<>]*")
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_THOUSAND = {"k": 1024.0, "K": 1024.0, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4}
#: What `packed` writes for each value.
PACKED = np.dtype([("number", "<f8"), ("key", "<u4")])
_PACK = [Struct("<" + "dI" * n).pack for n in range(MAX_VALUES + 1)]
#: Messages that are filled in at once; only memory depends on it.
_BLOCK = 1 << 14
#: Words of one template that are remembered.
_MOST_WORDS = 1 << 12
LARGEST = float(np.finfo(np.float32).max)


def number_and_word(text: str) -> tuple[float, str]:
    """The number that a text is, NaN where it is none, and what of it is compared as a word.

    Commas separate thousands or decimals; hours, minutes and seconds are so many seconds. Of an address with a port the
    port is the number and the host the word: together they would hardly ever be seen twice.
    """
    if ":" in text:
        if address := _ADDRESS.fullmatch(text):
            return float(address[2]), address[1]
        if clock := _CLOCK.fullmatch(text):
            return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3].replace(",", ".")), text
    elif "," in text and _THOUSANDS.fullmatch(text):
        return float(text.replace(",", "")), text
    elif _NUMBER.fullmatch(text):
        return float(text.replace(",", ".")), text
    return float("nan"), text


def hash_of(text: str) -> int:
    """A hash of 32 bits that is the same everywhere."""
    return crc32(text.encode("utf-8", "surrogatepass"))


def packed(texts: Sequence[str]) -> bytes:
    """What is kept of the values of one message, at most `MAX_VALUES`; bytes cost the least to keep and to join."""
    kept: list[float | int] = []
    for text in texts:
        number, word = (float(text), text) if text.isdecimal() else number_and_word(text)
        kept += (number, hash_of(word))
    return _PACK[len(texts)](*kept)


@dataclass(frozen=True)
class MaskedValues:
    """What the masks of messages stand for: message i holds rows `offsets[i]:offsets[i + 1]`."""

    counts: Int8Array
    number: Float32Array
    key: UInt32Array

    @classmethod
    def of(cls, messages: Sequence[bytes]) -> MaskedValues:
        """The values of messages, each as `packed` gives them."""
        counts = np.fromiter(map(len, messages), np.int64, len(messages)) // PACKED.itemsize
        values = np.frombuffer(b"".join(messages), PACKED)
        return cls(counts.astype(np.int8), _float32(values["number"]), values["key"].astype(np.uint32))


class GrowingValues:
    """The values of messages as they are read."""

    def __init__(self) -> None:
        self._counts, self._number, self._key = (scratch.Growing(dtype) for dtype in (np.int8, np.float32, np.uint32))

    def append(self, values: MaskedValues) -> None:
        """Add those of more messages."""
        self._counts.append(values.counts)
        self._number.append(values.number)
        self._key.append(values.key)

    def values(self) -> MaskedValues:
        """All of them."""
        return MaskedValues(self._counts.column(), self._number.column(), self._key.column())


#: Of the columns of a `SlotPlan` after its offsets.
SLOT_DTYPES = (np.int64, np.int64, np.uint64, np.bool_, np.float64)


@dataclass(frozen=True)
class SlotPlan:
    """How the slots of distinct masked texts are filled: text i has the slots `offsets[i]:offsets[i + 1]`."""

    offsets: Int64Array
    first: Int64Array  # which of the text's masks is the first in this slot
    n_masks: Int64Array  # masks in this slot: 1, but for a wildcard that stands for a word of none or several
    word: UInt64Array  # hash of the masked word that a wildcard stands for
    is_word: BoolArray
    number: Float64Array  # of a word without masks; else the unit of the one mask, as a factor

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        templates: Iterable[str | None],
        words: Callable[[str], Sequence[str]],
        written: re.Pattern[str],
    ) -> SlotPlan:
        """The plan of masked texts, each with its template, or None where it is a template of its own.

        `words` splits a text as the templates were split; `written` finds the masks in one.
        """
        slots: list[float] = []
        n_slots: list[int] = []
        known: dict[str, _TemplateSlots] = {}
        for text, template in zip(texts, templates, strict=True):
            begin = len(slots)
            if template is None or WILDCARD not in template:
                n_masks = min(len(written.findall(text)), MAX_VALUES)
                slots += [number for at in range(n_masks) for number in (at, 1, 0, 0, 1.0)]
            else:
                if (of_template := known.get(template)) is None:
                    of_template = known[template] = _TemplateSlots(template.split(), written)
                slots += of_template.of(text, words(text))[: MAX_VALUES * _N_COLUMNS]
            n_slots.append((len(slots) - begin) // _N_COLUMNS)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(n_slots, np.int64))])
        # one list of plain numbers: Python's collector of garbage would look at a million tuples again and again
        columns = np.array(slots, np.float64).reshape(-1, _N_COLUMNS).T
        return cls(offsets, *(column.astype(dtype) for column, dtype in zip(columns, SLOT_DTYPES, strict=True)))

    def fill(self, text: Int32Array, values: MaskedValues) -> ValueTable:
        """The values of messages in their slots; `text` says which text each message is."""
        n_slots = np.diff(self.offsets).astype(np.int8)
        counts = scratch.filled(len(text), np.int8, lambda block: n_slots[text[block]])
        number, key = scratch.Growing(np.float32), scratch.Growing(np.int32)
        n_before = 0
        for block in scratch.blocks(len(text), _BLOCK):
            own, masks = counts[block], values.counts[block]
            first = np.cumsum(masks, dtype=np.int64) - masks
            n_masks = int(masks.sum(dtype=np.int64))
            here = MaskedValues(
                masks, values.number[n_before : n_before + n_masks], values.key[n_before : n_before + n_masks]
            )
            slot = ragged_rows(self.offsets[text[block]], own)
            numbers, keys = self._filled(slot, np.repeat(first, own), np.repeat(masks, own), here)
            number.append(numbers)
            key.append(keys)
            n_before += n_masks
        return ValueTable(scratch.offsets_of(counts), number.column(), key.column())

    def _filled(
        self, slot: Int64Array, begin: Int64Array, n_masks: Int8Array, values: MaskedValues
    ) -> tuple[Float32Array, Int32Array]:
        """Numbers and hashes in slots; the masks of their messages begin at row `begin` and are `n_masks`."""

        def mask(nth: int, of: Int64Array) -> Int64Array:
            """Rows of the nth mask in these slots; -1 where it is beyond the first MAX_VALUES of the message."""
            at = self.first[slot[of]] + nth
            return np.where(at < n_masks[of], begin[of] + at, -1)

        is_word = self.is_word[slot]
        number, hashes = np.full(len(slot), np.nan), self.word[slot]
        one = np.flatnonzero(self.n_masks[slot] == 1)
        row = mask(0, one)
        number[one[row >= 0]] = values.number[row[row >= 0]]
        number *= self.number[slot]
        plain = ~is_word[one] & (row >= 0)
        hashes[one[plain]] = values.key[row[plain]]
        for nth in range(MAX_VALUES):
            of = np.flatnonzero(is_word & (nth < self.n_masks[slot]))
            row = mask(nth, of)
            hashes[of[row >= 0]] = _mix(hashes[of[row >= 0]], values.key[row[row >= 0]].astype(np.uint64))
        number = np.where(self.n_masks[slot] == 0, self.number[slot], number)
        return _float32(number), hashes.astype(np.uint32).view(np.int32)


#: Numbers of a slot: first mask, number of masks, hash of the word, whether it is a wildcard's, number or unit.
_N_COLUMNS = 5


class _TemplateSlots:
    """The slots of texts of one template. Texts and template have their words in common but for the wildcards."""

    def __init__(self, template: Sequence[str], written: re.Pattern[str]) -> None:
        self._written = written
        self._n_words = len(template)
        self._wildcards: list[tuple[int, int]] = []  # each with the masks between it and the one before it
        self._words: dict[str, tuple[int, int, float]] = {}
        n_masks = 0
        for place, word in enumerate(template):
            if word == WILDCARD:
                self._wildcards.append((place, n_masks))
                n_masks = 0
            else:
                n_masks += _n_masks(word, written)
        self._n_last = n_masks

    def of(self, text: str, words: Sequence[str]) -> list[float]:
        """The slots of a text of these words, `_N_COLUMNS` numbers each; none where a mask is split between words, as
        extra delimiters may have it.
        """
        if len(words) != self._n_words:
            raise ValueError("the text is not of this template")
        slots: list[float] = []
        at = 0
        for place, n_before in self._wildcards:
            slots += [number for nth in range(n_before) for number in (at + nth, 1, 0, 0, 1.0)]
            at += n_before
            word = words[place]
            n_masks, word_hash, number = self._words.get(word) or self._word(word)
            slots += (at, n_masks, word_hash, 1, number)
            at += n_masks
        slots += [number for nth in range(self._n_last) for number in (at + nth, 1, 0, 0, 1.0)]
        at += self._n_last
        # every mask begins with "<", which seldom stands for anything else
        return slots if at == text.count("<") or at == len(self._written.findall(text)) else []

    def _word(self, word: str) -> tuple[int, int, float]:
        if len(self._words) >= _MOST_WORDS:
            self._words.clear()
        self._words[word] = value_of_word(word, self._written)
        return self._words[word]


def value_of_word(word: str, written: re.Pattern[str]) -> tuple[int, int, float]:
    """Masks, hash, and number or unit of a word that a wildcard stands for; `written` finds the masks in it."""
    n_masks = _n_masks(word, written)
    number, kept = (_unit(word), word) if n_masks else number_and_word(word)
    return n_masks, hash_of(kept), number


def _n_masks(word: str, written: re.Pattern[str]) -> int:
    return len(written.findall(word)) if "<" in word else 0


def _unit(word: str) -> float:
    """The factor that makes seconds or bytes of the number in a masked word; 1 where it names no unit."""
    measure = _MEASURE.fullmatch(word)
    if measure is None:
        return 1.0
    return _SECONDS.get(measure[1]) or _THOUSAND.get(measure[1][0], 1.0)


def _mix(left: UInt64Array, right: UInt64Array) -> UInt64Array:
    """A hash of 32 bits of two, in this order."""
    mixed = (left * np.uint64(0x9E3779B97F4A7C15)) ^ (right * np.uint64(0xBF58476D1CE4E5B9))
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB) >> np.uint64(32))


def _float32(numbers: Float64Array) -> Float32Array:
    """Numbers as float32, NaN where they do not fit."""
    return np.where(np.abs(numbers) <= LARGEST, numbers, np.nan).astype(np.float32)
