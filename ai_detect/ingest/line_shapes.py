"""What was found in a line, kept for all lines of its shape (byte_shapes.py): spans of time, text and session key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import DictionaryArrays, bounded_dictionary
from ai_detect.ingest.byte_machine import Program
from ai_detect.ingest.byte_shapes import nothing_seen, tells_hex_apart, told_apart_before
from ai_detect.ingest.byte_texts import IS_ALNUM, IS_SPACE, TOKEN
from ai_detect.ingest.compiled import compiled, copy_bytes, inlined

_MOST_SHAPES = 1 << 15
_MOST_BYTES = 1 << 23
_FULL = 0.9
#: What is known of a shape: nothing, the header of a message, no header.
NOTHING, HEADER, NO_HEADER = range(3)
#: Columns of `LineShapes.found`; places count from the beginning of the line.
KIND, TIME, TIME_END, LEVEL, KEY, KEY_END, CUT, HEAD, HEAD_END, REST, REST_END = range(11)
#: Of a line without header: whether it is a stack frame, one of Python, and where its first character stands.
IS_FRAME, IS_PYTHON_FRAME, FIRST = TIME, TIME_END, LEVEL
#: How the text is cut from the line: from HEAD each time anew, HEAD alone, or HEAD and REST with SESSION_TOKEN between.
CUT_ANEW, CUT_HEAD, CUT_KEY = range(3)


class LineShapes(NamedTuple):
    """Shapes and what was found in their lines, for compiled code."""

    is_used: bool  # whether the patterns allow it
    has_texts: bool  # whether the patterns that texts are searched for do, too
    hides: bool  # whether words are hidden
    before: np.ndarray  # (2,) uint8, of `told_apart_before`
    dictionary: DictionaryArrays
    seen: np.ndarray  # uint64, of `nothing_seen`
    found: np.ndarray  # (n, 11) int32
    # (n, 3) int32, for who searches the texts: where the first is positive, a line of this shape is all that is needed
    of_text: np.ndarray


class TextPatterns(NamedTuple):
    """What will be looked for in texts."""

    programs: Sequence[Program] = ()
    #: Makes equal, in the first so many bytes of shapes, words that these programs do not tell apart, by bytes beyond
    #: ASCII; for those to whom all hexadecimal digits are the same.
    hide: Callable[[np.ndarray, int], None] | None = None


def empty_line_shapes(programs: Sequence[Program], texts: TextPatterns) -> LineShapes:
    """No shape yet, for lines in which these programs find what there is, and others in their texts."""
    before = told_apart_before([*programs, *texts.programs])
    # what follows a digit in the text may be the token for the key that the line has there
    has_texts = before is not None and TOKEN[0] not in before
    if not has_texts:
        before = told_apart_before(programs)
    n, n_words = (_MOST_SHAPES, _MOST_BYTES // 8) if before is not None else (1, 0)
    return LineShapes(
        before is not None,
        has_texts,
        has_texts and texts.hide is not None and not tells_hex_apart(programs),
        np.zeros(2, np.uint8) if before is None else before,
        bounded_dictionary(n, n_words),
        nothing_seen(),
        np.zeros((n, REST_END + 1), np.int32),
        np.zeros((n, 3), np.int32),
    )


def forget_line_shapes(shapes: LineShapes) -> bool:
    """Make room where there is little: shapes of the past may not come again. Returns whether all are forgotten."""
    dictionary = shapes.dictionary
    if not shapes.is_used:
        return False
    n, n_words = (int(used) for used in dictionary.used)
    is_full = n >= _FULL * len(dictionary.spans) or n_words >= _FULL * len(dictionary.words)
    if is_full:
        dictionary.slots[:] = 0
        dictionary.used[:] = 0
        shapes.found[:] = NOTHING
        shapes.of_text[:] = 0
    return is_full


@compiled
def _may_be_hex(byte: int) -> bool:
    """Whether a byte of a shape is a hexadecimal digit, or stands for one in a hidden word."""
    return byte >= 128 or 48 <= byte <= 57 or 97 <= byte | 32 <= 102


@compiled
def put_cut(
    data: np.ndarray,
    shapes: np.ndarray,
    line: int,
    begin: int,
    end: int,
    key_begin: int,
    key_end: int,
    begins_text: bool,
    found: np.ndarray,
) -> None:
    """Say in `found` how the text `data[begin:end]` of a line and its key are cut in all lines of this shape, as
    `byte_texts.put_text` does it; CUT_ANEW where that depends on digits. `shapes` are those of the data.
    """
    found[CUT], found[HEAD], found[HEAD_END] = CUT_ANEW, begin - line, end - line
    n_key = key_end - key_begin
    may_be_number, is_hidden = n_key > 0, False
    for i in range(key_begin, key_end):
        is_hidden = is_hidden or shapes[i] >= 128
        may_be_number = may_be_number and (shapes[i] >= 128 or 48 <= shapes[i] <= 57)
    goes_on = (key_begin > begin and IS_ALNUM[data[key_begin - 1]]) or (key_end < end and IS_ALNUM[data[key_end]])
    is_number = may_be_number and (not is_hidden or goes_on)  # a whole word has letters, a part of it may have none
    if is_number and (begins_text or is_hidden):
        return
    n_places = 0
    if n_key > 0 and not is_number:
        for place in range(begin, end - n_key + 1):
            fits = True
            for i in range(n_key):
                a, b = shapes[place + i], shapes[key_begin + i]
                if a != b and not (_may_be_hex(a) and _may_be_hex(b) and max(a, b) >= 128):
                    fits = False
                    break
            n_places += fits
        if n_places > 1 or (n_places == 1 and not begin <= key_begin <= end - n_key):
            return
    cut = CUT_HEAD
    if n_places == 1:
        head, tail = data[key_begin], data[key_end - 1]
        inside = (IS_ALNUM[head] and key_begin > begin and IS_ALNUM[data[key_begin - 1]]) or (
            IS_ALNUM[tail] and key_end < end and IS_ALNUM[data[key_end]]
        )
        if not inside and key_begin == begin:
            begin = key_end
        elif not inside:
            cut = CUT_KEY
    head_end, rest = (key_begin, key_end) if cut == CUT_KEY else (end, end)
    while begin < head_end and IS_SPACE[data[begin]]:
        begin += 1
    while end > rest and IS_SPACE[data[end - 1]]:
        end -= 1
    if cut == CUT_HEAD:
        while head_end > begin and IS_SPACE[data[head_end - 1]]:
            head_end -= 1
        if head_end == begin:
            return
    found[CUT], found[HEAD], found[HEAD_END], found[REST], found[REST_END] = (
        cut, begin - line, head_end - line, rest - line, end - line,
    )  # fmt: skip


@compiled
def put_known_text(data: np.ndarray, line: int, found: np.ndarray, out: np.ndarray, at: int) -> int:
    """Write the text of a line at `out[at]`, as `found` says that it is cut; returns where it ends."""
    at += copy_bytes(data[line + found[HEAD] : line + found[HEAD_END]], out[at:])
    if found[CUT] == CUT_KEY:
        at += copy_bytes(TOKEN, out[at:])
        at += copy_bytes(data[line + found[REST] : line + found[REST_END]], out[at:])
    return at


@inlined
def put_last_text(
    data: np.ndarray,
    all_found: np.ndarray,
    shape: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    out: np.ndarray,
    used: np.ndarray,
) -> None:
    """Write the text of the last message where it was left out; the arrays are those of `Columns`."""
    last = used[0] - 1
    if begins[last] == ends[last]:
        after = put_known_text(data, begins[last], all_found[shape[last]], out, used[1])
        begins[last], ends[last] = used[1], after
        used[1] = after


@compiled
def in_line(found: np.ndarray, begin: int, end: int) -> int:
    """Where in a line the part of its text stands that `found` says how it is cut; -1 where the token is in it."""
    head = found[HEAD_END] - found[HEAD]
    if found[CUT] == CUT_HEAD or end <= head:
        return int(found[HEAD] + begin)
    begin -= head + len(TOKEN)
    return int(found[REST] + begin) if begin >= 0 else -1
