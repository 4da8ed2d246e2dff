"""What masks found in a text, kept for all texts of its shape (byte_shapes.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import DictionaryArrays, bounded_dictionary
from ai_detect.ingest.byte_machine import Program
from ai_detect.ingest.byte_shapes import LONGEST_SHAPE, nothing_seen, told_apart_before
from ai_detect.ingest.byte_words import SLACK
from ai_detect.ingest.compiled import compiled
from ai_detect.ingest.line_shapes import in_line
from ai_detect.parsing.byte_kinds import DIGIT, KINDS
from ai_detect.parsing.byte_values import kind_of_value

_MOST_SHAPES = 1 << 15
_MOST_BYTES = 1 << 23
_MOST_SPANS = 1 << 18
_FULL = 0.9
#: The number of a masked text: not known yet; or one that differs with digits that no mask stands for.
NOT_KNOWN, VARIES = -2, -1


class TextShapes(NamedTuple):
    """Shapes and the masks of their texts, for compiled code; shape i has the masks `first[i]` and those after it."""

    is_used: bool  # whether these masks allow it
    before: np.ndarray  # (2,) uint8, of `told_apart_before`
    bytes: np.ndarray  # uint8, where a shape is put together
    dictionary: DictionaryArrays
    seen: np.ndarray  # uint64, of `nothing_seen`
    text: np.ndarray  # (n,) int32: the number of the masked text, NOT_KNOWN or VARIES
    first: np.ndarray  # (n,) int32
    n_masks: np.ndarray  # (n,) int32
    begins: np.ndarray  # int16, in the text, or for masks of a shape of lines (LineShapes.of_text) in the line
    ends: np.ndarray  # int16
    pattern: np.ndarray  # int8
    kind: np.ndarray  # int8, of the value
    used: np.ndarray  # (1,) int64: masks


def empty_shapes(programs: Sequence[Program]) -> TextShapes:
    """No shape yet, for masks that these programs find."""
    before = told_apart_before(programs)
    n = _MOST_SHAPES if before is not None else 1
    spans = [
        np.empty(_MOST_SPANS if before is not None else 0, dtype) for dtype in (np.int16, np.int16, np.int8, np.int8)
    ]
    return TextShapes(
        before is not None,
        np.zeros(2, np.uint8) if before is None else before,
        np.empty(LONGEST_SHAPE + SLACK, np.uint8),
        bounded_dictionary(n, _MOST_BYTES // 8 if before is not None else 0),
        nothing_seen(),
        np.full(n, NOT_KNOWN, np.int32),
        np.empty(n, np.int32),
        np.empty(n, np.int32),
        spans[0],
        spans[1],
        spans[2],
        spans[3],
        np.zeros(1, np.int64),
    )


def forget_shapes(shapes: TextShapes) -> bool:
    """Make room where there is little: shapes of the past may not come again. Returns whether all are forgotten."""
    dictionary = shapes.dictionary
    if not shapes.is_used:
        return False
    is_full = (
        dictionary.used[0] >= _FULL * len(dictionary.spans)
        or dictionary.used[1] >= _FULL * len(dictionary.words)
        or shapes.used[0] >= _FULL * len(shapes.begins)
    )
    if is_full:
        dictionary.slots[:] = 0
        dictionary.used[:] = 0
        shapes.text[:] = NOT_KNOWN
        shapes.used[:] = 0
    return bool(is_full)


@compiled
def keep_masks(
    data: np.ndarray,
    begin: int,
    end: int,
    n_masks: int,
    masked: int,
    first: int,
    begins: np.ndarray,
    ends: np.ndarray,
    kinds: np.ndarray,
) -> int:
    """Complete what is known of the masks of a text from the `first` on: their values' kinds. Returns what
    `TextShapes.text` says of the shape of a text whose masked text is number `masked`.
    """
    at = begin
    for i in range(n_masks + 1):
        last = end
        if i < n_masks:
            mask = np.uint64(first + i)
            kinds[mask] = kind_of_value(data, begin + begins[mask], begin + ends[mask])
            last = begin + begins[mask]
        for place in range(at, last):
            if KINDS[data[np.uint64(place)]] & DIGIT:
                masked = VARIES
        if i < n_masks:
            at = begin + ends[np.uint64(first + i)]
    return masked


@compiled
def keep_in_line(
    masked: int,
    first: int,
    n_masks: int,
    found: np.ndarray,
    of_text: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    kinds: np.ndarray,
    n_kept: np.ndarray,
) -> None:
    """Keep the masks of a text for the lines of its line's shape, from which `found` says how it is cut: in `of_text`
    are then the number of the masked text + 1, and the first and the number of the masks. Nothing is kept where a mask
    stands for the session key, or where there is no room.
    """
    kept = n_kept[0]
    if kept + n_masks > len(begins):
        return
    for i in range(n_masks):
        begin, end = begins[first + i], ends[first + i]
        place = in_line(found, begin, end)
        if place < 0:
            return
        begins[kept + i], ends[kept + i], kinds[kept + i] = place, place + end - begin, kinds[first + i]
    n_kept[0] += n_masks
    of_text[0], of_text[1], of_text[2] = masked + 1, kept, n_masks
