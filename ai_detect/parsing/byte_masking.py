"""Masking over bytes in compiled code: masked texts go into a dictionary, what their masks stand for into columns.

The result is that of `Masks.mask` and `values.packed` for every text. The patterns are run as they are; our own are
first tried by rules (default_masks.py). A text that is not ASCII, spells a mask out, or holds a number that needs more
than a double's arithmetic is left to `Masks.mask`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import NO_ROOM, ByteDictionary, DictionaryArrays, number_of
from ai_detect.ingest.byte_machine import GAVE_UP, STACK_ROWS, Program, match_at
from ai_detect.ingest.byte_regex import UnknownPattern, byte_pattern, joined
from ai_detect.ingest.byte_shapes import LONGEST_SHAPE, NO_SHAPE, put_shape, shape_number
from ai_detect.ingest.compiled import any_bits, compiled, copy_bytes
from ai_detect.ingest.line_shapes import TextPatterns
from ai_detect.ingest.message_block import MessageBlock
from ai_detect.parsing.byte_kinds import ALNUM, KINDS, run_end
from ai_detect.parsing.byte_values import known_value, value_of
from ai_detect.parsing.default_masks import default_match
from ai_detect.parsing.hex_words import hide_hex_words
from ai_detect.parsing.masking import DEFAULT_MASKS, Masks
from ai_detect.parsing.text_shapes import (
    NOT_KNOWN,
    VARIES,
    TextShapes,
    empty_shapes,
    forget_shapes,
    keep_in_line,
    keep_masks,
)
from ai_detect.parsing.values import LARGEST, MaskedValues, packed
from ai_detect.tables import MAX_VALUES, Int32Array

#: Longer texts are left to `Masks.mask`.
_LONGEST_TEXT = 8_192
_MOST_PATTERNS = 63
_MOST_NEEDS = 63
_MOST_MASKS = 16
_DONE, _LEFT, _FULL = range(3)
#: The mark of "<", which may begin a mask that a text spells out.
_OPENS = np.uint64(1)


class MaskArrays(NamedTuple):
    """The patterns of a `Masks` for compiled code; bit k of a uint64 stands for pattern k."""

    program: Program
    entries: np.ndarray  # (n,) int64: where each pattern begins in the program
    names: np.ndarray  # uint8: "<NAME>" of each, one after another
    name_offsets: np.ndarray  # (n + 1,) int64
    first: np.ndarray  # (256,) uint64: patterns that may begin with a byte
    marks: np.ndarray  # (256,) uint64: which needs a byte meets, and _OPENS
    needs: np.ndarray  # (n,) uint64: which needs each pattern has
    begins_mask: np.ndarray  # (256,) bool: what may follow "<" in a mask that a text spells out


class MaskedColumns(NamedTuple):
    """What comes out, text by text; `used` counts texts and values."""

    text: np.ndarray  # (n,) int32, number in the dictionary
    counts: np.ndarray  # (n,) int8
    number: np.ndarray  # (n * MAX_VALUES,) float32
    key: np.ndarray  # (n * MAX_VALUES,) uint32
    used: np.ndarray  # (2,) int64


class ByteMasker:
    """Masks texts given as bytes; masked texts are numbered in `texts`. Raises UnknownPattern where the masks are such
    that only `re` can apply them.
    """

    def __init__(self, masks: Masks, texts: ByteDictionary) -> None:
        self._masks = masks
        self._texts = texts
        self._is_default = masks == DEFAULT_MASKS
        self._arrays = _mask_arrays(masks)
        self._columns = _empty_columns(0)
        self._shapes = empty_shapes([self._arrays.program])
        longest = int(np.diff(self._arrays.name_offsets).max())
        self._buffer = np.zeros(_LONGEST_TEXT * longest + 8, np.uint8)

    @property
    def patterns(self) -> TextPatterns:
        """What finds the masks."""
        return TextPatterns((self._arrays.program,), hide_hex_words if self._is_default else None)

    def mask(self, block: MessageBlock) -> tuple[Int32Array, MaskedValues]:
        """Numbers of the masked texts of a block, and what their first `MAX_VALUES` masks stand for; both are there
        until the next block is masked.
        """
        n = len(block)
        if n > len(self._columns.text):
            self._columns = _empty_columns(2 * n)
        columns = self._columns
        columns.used[:] = 0
        while True:
            status = mask_texts(
                self._arrays, self._shapes, self._is_default, block.data, block.begins, block.ends, block.lines,
                block.shape, block.shapes.found, block.shapes.of_text, self._texts.arrays, self._buffer, columns,
            )  # fmt: skip
            if status == _DONE:
                break
            if status == _FULL:
                self._texts.grow()
            else:
                self._mask_one(block, columns)
        if forget_shapes(self._shapes):
            block.shapes.of_text[:] = 0
        n_values = columns.used[1]
        values = MaskedValues(columns.counts[:n], columns.number[:n_values], columns.key[:n_values])
        return columns.text[:n], values

    def _mask_one(self, block: MessageBlock, columns: MaskedColumns) -> None:
        """The text that compiled code left."""
        row, n_values = (int(used) for used in columns.used)
        text = block.text(row)
        masked, originals = self._masks.mask(text)
        values = MaskedValues.of([packed(originals[:MAX_VALUES])])
        after = n_values + int(values.counts[0])
        columns.text[row] = self._texts.number(masked.encode("utf-8", "surrogatepass"))
        columns.counts[row] = values.counts[0]
        columns.number[n_values:after], columns.key[n_values:after] = values.number, values.key
        columns.used[:] = row + 1, after


def _empty_columns(n: int) -> MaskedColumns:
    """Room for so many texts."""
    return MaskedColumns(
        np.empty(n, np.int32),
        np.empty(n, np.int8),
        np.empty(n * MAX_VALUES, np.float32),
        np.empty(n * MAX_VALUES, np.uint32),
        np.zeros(2, np.int64),
    )


def _mask_arrays(masks: Masks) -> MaskArrays:
    known = _known_masks(masks)
    return known._replace(program=known.program._replace(stack=np.empty((STACK_ROWS, 4), np.int64)))


@lru_cache(_MOST_MASKS)
def _known_masks(masks: Masks) -> MaskArrays:
    """The arrays of these masks but for the room to run in."""
    if masks.in_turn or not 0 < len(masks.patterns) <= _MOST_PATTERNS:
        raise UnknownPattern("masks that are applied one after another, or too many, or none")
    if any(name[:1].isdigit() for name, _ in masks.patterns):
        raise UnknownPattern("a mask whose name texts of one shape may or may not spell out")
    patterns = [byte_pattern(re.compile(pattern), groups=False) for _, pattern in masks.patterns]
    if any(pattern.min_width == 0 for pattern in patterns):
        raise UnknownPattern("a mask that matches nothing at all")
    program, entries = joined(patterns)
    bits = np.uint64(1) << np.arange(len(patterns), dtype=np.uint64)
    first = np.zeros(256, np.uint64)
    for bit, pattern in zip(bits, patterns, strict=True):
        first[pattern.first] |= bit
    # Small sets tell most: a text without "@" holds no e-mail address.
    sets = sorted({need for pattern in patterns for need in pattern.needs}, key=lambda need: (len(need), sorted(need)))
    known = {need: np.uint64(2) << np.uint64(i) for i, need in enumerate(sets[:_MOST_NEEDS])}
    marks, needs = np.zeros(256, np.uint64), np.zeros(len(patterns), np.uint64)
    marks[ord("<")] = _OPENS
    for need, bit in known.items():
        marks[list(need)] |= bit
    for i, pattern in enumerate(patterns):
        for need in pattern.needs & known.keys():
            needs[i] |= known[need]
    written = [f"<{name}>".encode() for name, _ in masks.patterns]
    begins_mask = np.zeros(256, np.bool_)
    begins_mask[[ord("*"), *(name[1] for name in written)]] = True
    offsets = np.cumsum([0, *map(len, written)]).astype(np.int64)
    return MaskArrays(
        program, entries, np.frombuffer(b"".join(written), np.uint8).copy(), offsets, first, marks, needs, begins_mask
    )


@compiled
def mask_texts(
    masks: MaskArrays,
    shapes: TextShapes,
    is_default: bool,
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    lines: np.ndarray,
    line_shape: np.ndarray,
    found_in_lines: np.ndarray,
    of_text: np.ndarray,
    texts: DictionaryArrays,
    out: np.ndarray,
    columns: MaskedColumns,
) -> int:
    """Mask texts from the first on that is not yet in the columns.

    Returns _DONE, _LEFT where the next text is for `Masks.mask`, or _FULL where the dictionary must grow before it.
    """
    (code, sets, captures, stack), entries, names, name_offsets, first, marks_of, needs, begins_mask = masks
    slots, hashes, text_spans, words, n_texts = texts
    out_text, out_counts, out_number, out_key, used = columns
    has_shapes, before, shape_bytes, dictionary, seen, shape_text, first_mask, shape_masks = shapes[:8]
    mask_begins, mask_ends, mask_pattern, mask_kind, n_kept = shapes[8:]
    s_slots, s_hashes, s_spans, s_words, s_used = dictionary
    n_patterns = len(entries)
    for row in range(used[0], len(begins)):
        begin, end = begins[row], ends[row]
        n_values, first_value = 0, used[1]
        in_line = line_shape[row]
        if in_line >= 0 and begin == end:
            known = of_text[in_line]
            for mask in range(known[1], known[1] + min(known[2], MAX_VALUES)):
                place = np.uint64(mask)
                is_known, number, key = known_value(
                    lines, begin + mask_begins[place], begin + mask_ends[place], mask_kind[place]
                )
                if not is_known:
                    return _LEFT
                out_number[np.uint64(first_value + n_values)] = number if abs(number) <= LARGEST else np.nan
                out_key[np.uint64(first_value + n_values)] = key
                n_values += 1
            out_text[row] = known[0] - 1
            out_counts[row] = n_values
            used[0] += 1
            used[1] += n_values
            continue
        at, copied, length = begin, begin, 0
        masked, shape = NOT_KNOWN, NO_SHAPE
        if has_shapes and end - begin <= LONGEST_SHAPE:
            put_shape(data[begin:end], before, shape_bytes)
            if is_default:
                hide_hex_words(shape_bytes, end - begin)
            shape = shape_number(shape_bytes, 0, end - begin, s_slots, s_hashes, s_spans, s_words, s_used, seen)
        if shape >= 0 and shape_text[shape] != NOT_KNOWN:
            masked = shape_text[shape]
            if in_line >= 0 and masked >= 0:
                keep_in_line(
                    masked, first_mask[shape], shape_masks[shape], found_in_lines[in_line], of_text[in_line],
                    mask_begins, mask_ends, mask_kind, n_kept,
                )  # fmt: skip
            for mask in range(first_mask[shape], first_mask[shape] + shape_masks[shape]):
                found, last = begin + mask_begins[mask], begin + mask_ends[mask]
                if n_values < MAX_VALUES:
                    is_known, number, key = known_value(data, found, last, mask_kind[mask])
                    if not is_known:
                        return _LEFT
                    out_number[first_value + n_values] = number if abs(number) <= LARGEST else np.nan
                    out_key[first_value + n_values] = key
                    n_values += 1
                if masked == VARIES:
                    pattern = mask_pattern[mask]
                    length += copy_bytes(data[copied:found], out[length:])
                    length += copy_bytes(names[name_offsets[pattern] : name_offsets[pattern + 1]], out[length:])
                    copied = last
        else:
            if end - begin > _LONGEST_TEXT:
                return _LEFT
            text = data[begin:end]
            if any_bits(text) >= 128:
                return _LEFT
            marks = np.uint64(0)
            for i in range(len(text)):
                marks |= marks_of[text[i]]
            if marks & _OPENS:
                for i in range(len(text) - 1):
                    if text[i] == 60 and begins_mask[text[i + 1]]:  # <
                        return _LEFT
            live = 0
            for k in range(n_patterns):
                if needs[k] & ~marks == 0:
                    live |= 1 << k
            n_masks, n_before = 0, n_kept[0]
            while at < end:
                byte = data[np.uint64(at)]
                is_word = KINDS[byte] & ALNUM
                candidates = int(first[byte]) & live
                if candidates == 0 or (at > begin and KINDS[data[np.uint64(at - 1)]] & ALNUM):
                    at = run_end(data, at, end, ALNUM) if is_word else at + 1
                    continue
                found, pattern = -1, candidates
                if is_default:
                    found, pattern = default_match(data, at, end, candidates)
                if found < 0:
                    candidates = pattern
                    found = 0
                    for k in range(n_patterns):
                        if candidates >> k & 1:
                            found = match_at(code, sets, captures, stack, entries[k], data, begin, end, at, False)
                            if found == GAVE_UP:
                                return _LEFT
                            if found >= 0:
                                pattern = k
                                break
                if found <= 0:
                    at = run_end(data, at, end, ALNUM) if is_word else at + 1
                    continue
                length += copy_bytes(data[copied:at], out[length:])
                length += copy_bytes(names[name_offsets[pattern] : name_offsets[pattern + 1]], out[length:])
                if n_values < MAX_VALUES:
                    is_known, number, key = value_of(data, at, found)
                    if not is_known:
                        return _LEFT
                    out_number[first_value + n_values] = number if abs(number) <= LARGEST else np.nan
                    out_key[first_value + n_values] = key
                    n_values += 1
                if n_before + n_masks < len(mask_begins):
                    mask = n_before + n_masks
                    mask_begins[mask], mask_ends[mask], mask_pattern[mask] = at - begin, found - begin, pattern
                n_masks += 1
                at = copied = found
        if masked < 0:
            length += copy_bytes(data[copied:end], out[length:])
            number_here = number_of(slots, hashes, text_spans, words, n_texts, out, 0, length)
            if number_here == NO_ROOM:
                return _FULL
            if shape >= 0 and masked == NOT_KNOWN and n_before + n_masks <= len(mask_begins):
                shape_text[shape] = keep_masks(
                    data, begin, end, n_masks, number_here, n_before, mask_begins, mask_ends, mask_kind
                )
                first_mask[shape], shape_masks[shape] = n_before, n_masks
                n_kept[0] += n_masks
            masked = number_here
        out_text[row] = masked
        out_counts[row] = n_values
        used[0] += 1
        used[1] += n_values
    return _DONE
