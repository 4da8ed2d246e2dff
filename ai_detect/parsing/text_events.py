"""Events of distinct masked texts, and where the values of these stand in them, by compiled code.

The results are those of `TemplateMatcher.match` and `SlotPlan.of`, found with the numbers of words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.byte_dictionary import ByteDictionary, DictionaryArrays, hash_of, number_of_hashed
from ai_detect.ingest.compiled import any_bits, compiled
from ai_detect.parsing.byte_values import value_of
from ai_detect.parsing.masking import WILDCARD
from ai_detect.parsing.matching import TemplateMatcher
from ai_detect.parsing.text_words import TextWords, WordArrays
from ai_detect.parsing.values import SLOT_DTYPES, SlotPlan, value_of_word
from ai_detect.tables import MAX_VALUES, Int32Array

_NO_EVENT = -1
_NOT_KNOWN = -1
#: Texts that are planned at once; only memory depends on it.
_AT_ONCE = 1 << 14


class TemplateArrays(NamedTuple):
    """Templates for compiled code: those with literal words at the same places are looked up by these, in turn."""

    by_length: np.ndarray  # (longest + 2,) int64: the arrangements of n words begin at by_length[n]
    places: np.ndarray  # int32: of the literal words
    place_offsets: np.ndarray  # (arrangements + 1,) int64
    lookups: DictionaryArrays  # the numbers of an arrangement and of its literal words, each an uint32
    events: np.ndarray  # int32, by number in `lookups`


class WordValues(NamedTuple):
    """What words are as values of a wildcard, by number."""

    n_masks: np.ndarray  # (words,) int32
    hashes: np.ndarray  # (words,) uint64
    numbers: np.ndarray  # (words,) float64


def events_of_texts(words: TextWords, matcher: TemplateMatcher) -> Int32Array:
    """The event of each text's words, -1 where no template matches."""
    of_texts = words.numbered()
    events = scratch.zeros(len(words.texts), np.int32)
    longest = max(matcher.by_length, default=0)
    key = np.zeros(longest + 1, np.uint32)
    _match(of_texts, _template_arrays(words, matcher, longest), key, key.view(np.uint8), events)
    return events


def _template_arrays(words: TextWords, matcher: TemplateMatcher, longest: int) -> TemplateArrays:
    by_length, places, place_offsets = [0], list[int](), [0]
    lookups, events = ByteDictionary(), list[int]()
    for length in range(longest + 1):
        for literal, lookup in matcher.by_length.get(length, ()):
            number = len(place_offsets) - 1
            places += [place for place, is_literal in enumerate(literal) if is_literal]
            place_offsets.append(len(places))
            for tokens, event in lookup.items():
                key = np.array([number, *(words.number(token) for token in tokens)], np.uint32)
                lookups.number(key.tobytes())
                events.append(event)
        by_length.append(len(place_offsets) - 1)
    return TemplateArrays(
        np.array(by_length, np.int64), np.array(places, np.int32), np.array(place_offsets, np.int64), lookups.arrays,
        np.array(events, np.int32),
    )  # fmt: skip


def slot_plan(words: TextWords, events: Int32Array, templates: Sequence[str], written: re.Pattern[str]) -> SlotPlan:
    """`SlotPlan.of` texts that are split by blanks; an event beyond the templates is a template of its own."""
    of_texts, values = words.numbered(), _word_values(words, written)
    n_slots, columns = scratch.Growing(np.int64), [scratch.Growing(dtype) for dtype in SLOT_DTYPES]
    wildcards = [[word == WILDCARD for word in template.split()] for template in templates]
    is_wildcard = np.array([is_wildcard for of_template in wildcards for is_wildcard in of_template], np.bool_)
    begins = np.cumsum([0, *map(len, wildcards)])
    for block in scratch.blocks(len(events), _AT_ONCE):
        counts = np.zeros(block.stop - block.start, np.int64)
        slots = [np.empty(len(counts) * MAX_VALUES, dtype) for dtype in SLOT_DTYPES]
        n = _plan(of_texts, values, block.start, events, is_wildcard, begins, counts, *slots)
        n_slots.append(counts)
        for column, part in zip(columns, slots, strict=True):
            column.append(part[:n])
    return SlotPlan(scratch.offsets_of(n_slots.column()), *(column.column() for column in columns))


def _word_values(words: TextWords, written: re.Pattern[str]) -> WordValues:
    n = len(words.words)
    values = WordValues(scratch.zeros(n, np.int32), scratch.zeros(n, np.uint64), scratch.zeros(n, np.float64))
    _, _, spans, content, _ = words.words.arrays
    _value_words(n, spans, content.view(np.uint8), values)
    for number in np.flatnonzero(values.n_masks == _NOT_KNOWN).tolist():
        word = words.words[number].decode("utf-8", "surrogatepass")
        values.n_masks[number], values.hashes[number], values.numbers[number] = value_of_word(word, written)
    return values


@compiled
def _value_words(n: int, spans: np.ndarray, content: np.ndarray, values: WordValues) -> None:
    """What the first n words are as values; those that Python must look at have _NOT_KNOWN masks."""
    for word in range(n):
        begin = 8 * spans[word, 0]
        end = begin + spans[word, 1]
        values.n_masks[word] = _NOT_KNOWN
        is_for_python = any_bits(content[begin:end]) >= 128
        for i in range(begin, end):
            is_for_python = is_for_python or content[i] == 60  # <, with which every mask begins
        if not is_for_python:
            is_known, number, key = value_of(content, begin, end)
            if is_known:
                values.n_masks[word], values.hashes[word], values.numbers[word] = 0, key, number


@compiled
def _match(
    of_texts: WordArrays, templates: TemplateArrays, key: np.ndarray, key_bytes: np.ndarray, events: np.ndarray
) -> None:
    offsets, numbers = of_texts
    by_length, places, place_offsets, (slots, hashes, spans, words, used), event_of = templates
    for text in range(len(events)):
        begin, n_words = offsets[text], offsets[text + 1] - offsets[text]
        events[text] = _NO_EVENT
        if n_words + 1 >= len(by_length):
            continue
        for arrangement in range(by_length[n_words], by_length[n_words + 1]):
            key[0] = arrangement
            n = 1
            for place in range(place_offsets[arrangement], place_offsets[arrangement + 1]):
                key[n] = numbers[begin + places[place]]
                n += 1
            value = hash_of(key_bytes, 0, 4 * n)
            found = number_of_hashed(slots, hashes, spans, words, used, key_bytes, 0, 4 * n, value, False)
            if found >= 0:
                events[text] = event_of[found]
                break


@compiled
def _plan(
    of_texts: WordArrays,
    values: WordValues,
    first_text: int,
    events: np.ndarray,
    is_wildcard: np.ndarray,
    begins: np.ndarray,
    counts: np.ndarray,
    first: np.ndarray,
    n_masks: np.ndarray,
    word: np.ndarray,
    is_word: np.ndarray,
    number: np.ndarray,
) -> int:
    """Plan the slots of as many texts as there are counts; returns how many slots there are."""
    offsets, numbers = of_texts
    n = 0
    for i in range(len(counts)):
        text = first_text + i
        event = events[text]
        has_template = event < len(begins) - 1
        n_before, mask = n, 0
        for place in range(offsets[text + 1] - offsets[text]):
            own = numbers[offsets[text] + place]
            n_own = values.n_masks[own]
            as_word = has_template and is_wildcard[begins[event] + place]
            for nth in range(1 if as_word else n_own):
                if n - n_before == MAX_VALUES:
                    break
                first[n], n_masks[n], is_word[n] = mask + nth, n_own if as_word else 1, as_word
                word[n] = values.hashes[own] if as_word else np.uint64(0)
                number[n] = values.numbers[own] if as_word else 1.0
                n += 1
            mask += n_own
        counts[i] = n - n_before
    return n
