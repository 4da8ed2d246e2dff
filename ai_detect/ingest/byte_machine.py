"""The machine that runs regular expressions over bytes in compiled code (byte_regex.py makes its programs).

It backtracks: it tries what `re` tries in the same order, and gives up where that takes too many steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ai_detect.ingest.compiled import compiled, inlined

NO_MATCH = -1
GAVE_UP = -2
#: What the machine may do for one match; `re` is asked where it does not suffice.
_MAX_STEPS = 20_000
STACK_ROWS = 4_096

# Operations of a program.
MATCH, SET, REPEAT, LAZY, SPLIT, JUMP, SAVE, PEEK, NOT_PEEK, PREV, NOT_PREV = range(11)
LOOK, NOT_LOOK, LOOK_END, BEGIN, END, LINE_END, BOUNDARY, BACKREF, FAIL = range(11, 20)
#: Operations whose first operand is a character class.
OF_A_CLASS = (SET, REPEAT, LAZY, PEEK, NOT_PEEK, PREV, NOT_PREV, BOUNDARY)
#: Of a repetition: whether what follows cannot be one more of its characters, and whether every character is one.
IS_DISJOINT, TAKES_ALL = 1, 2
# Kinds of frames on the stack.
_F_ALTERNATIVE, _F_UNDO, _F_REPEAT, _F_LAZY, _F_LOOK, _F_NOT_LOOK = range(6)


class Program(NamedTuple):
    """What the machine runs: operations of six numbers, and the character classes that they name."""

    # (n, 6) int32: operation, three operands, class of the next byte (-1: any), IS_DISJOINT and TAKES_ALL; of SPLIT
    # the operations of the two paths, then the classes of the next byte on either
    code: np.ndarray
    sets: np.ndarray  # (n, 256) bool
    captures: np.ndarray  # (2 * groups + 2,) int64, begin and end of each group, -1 where it took no part
    stack: np.ndarray  # (n, 4) int64


@compiled
def _push(stack: np.ndarray, top: int, kind: int, a: int, b: int, c: int) -> int:
    """Put a frame on the stack; returns the new top."""
    stack[top, 0] = kind
    stack[top, 1] = a
    stack[top, 2] = b
    stack[top, 3] = c
    return top + 1


@compiled
def match_at(
    code: np.ndarray,
    sets: np.ndarray,
    captures: np.ndarray,
    stack: np.ndarray,
    entry: int,
    data: np.ndarray,
    begin: int,
    end: int,
    start: int,
    whole: bool,
) -> int:
    """Where a match of the text `data[begin:end]` ends that begins at `start`; NO_MATCH or GAVE_UP where there is none.

    The first four are those of a `Program`, whose operation `entry` is the first. With `whole` the match must reach to
    the end. The groups are in `captures`. Indices are made unsigned where it counts: numba then leaves out the test
    whether they count from the end.
    """
    for i in range(len(captures)):
        captures[i] = -1
    at, pos, top, steps = entry, start, 0, 0
    while True:
        steps += 1
        if steps > _MAX_STEPS or top + 2 >= STACK_ROWS:
            return GAVE_UP
        operation = code[at, 0]
        a = code[at, 1]
        fails = False
        if operation == SET:
            if pos < end and sets[np.uint64(a), data[np.uint64(pos)]]:
                pos += 1
                at += 1
            else:
                fails = True
        elif operation == REPEAT:
            high = code[at, 3]
            limit = end if high < 0 or end - pos < high else pos + high
            low = pos + code[at, 2]
            following = code[at, 4]
            last = pos
            if code[at, 5] & TAKES_ALL:
                last = max(last, limit)
            else:
                while last < limit and sets[np.uint64(a), data[np.uint64(last)]]:
                    last += 1
            if last < low:
                fails = True
            elif code[at, 5] & IS_DISJOINT:
                if last < end and sets[np.uint64(following), data[np.uint64(last)]]:
                    pos = last
                    at += 1
                else:
                    fails = True
            else:
                if following >= 0:
                    while last >= low and not (last < end and sets[np.uint64(following), data[np.uint64(last)]]):
                        last -= 1
                if last < low:
                    fails = True
                else:
                    if last > low:
                        top = _push(stack, top, _F_REPEAT, at, low, last)
                    pos = last
                    at += 1
        elif operation == LAZY:
            high = code[at, 3]
            limit = end if high < 0 or end - pos < high else pos + high
            low = pos + code[at, 2]
            last = pos
            while last < low and last < limit and sets[np.uint64(a), data[np.uint64(last)]]:
                last += 1
            following = code[at, 4]
            if last < low:
                fails = True
            else:
                if following >= 0:
                    while not (last < end and sets[np.uint64(following), data[np.uint64(last)]]):
                        if last < limit and sets[np.uint64(a), data[np.uint64(last)]]:
                            last += 1
                        else:
                            fails = True
                            break
                if not fails:
                    top = _push(stack, top, _F_LAZY, at, limit, last)
                    pos = last
                    at += 1
        elif operation == MATCH:
            if not whole or pos == end:
                return pos
            fails = True
        elif operation == SPLIT:
            first, other = code[at, 3], code[at, 4]
            if first >= 0 and not (pos < end and sets[np.uint64(first), data[np.uint64(pos)]]):
                at = code[at, 2]
            else:
                if other < 0 or (pos < end and sets[np.uint64(other), data[np.uint64(pos)]]):
                    top = _push(stack, top, _F_ALTERNATIVE, code[at, 2], pos, 0)
                at = a
        elif operation == JUMP:
            at = a
        elif operation == SAVE:
            top = _push(stack, top, _F_UNDO, a, captures[a], 0)
            captures[a] = pos
            at += 1
        elif operation == PEEK:
            fails = not (pos < end and sets[np.uint64(a), data[np.uint64(pos)]])
            at += 1
        elif operation == NOT_PEEK:
            fails = pos < end and sets[np.uint64(a), data[np.uint64(pos)]]
            at += 1
        elif operation == PREV:
            fails = not (pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]])
            at += 1
        elif operation == NOT_PREV:
            fails = pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]]
            at += 1
        elif operation in (LOOK, NOT_LOOK):
            top = _push(stack, top, _F_LOOK if operation == LOOK else _F_NOT_LOOK, a, pos, 0)
            at += 1
        elif operation == LOOK_END:
            look = top - 1
            # the frame of this look is the last that is not finished: finished ones leave none behind
            while stack[look, 0] != _F_LOOK and stack[look, 0] != _F_NOT_LOOK:
                look -= 1
            after, before, is_negative = stack[look, 1], stack[look, 2], stack[look, 0] == _F_NOT_LOOK
            if is_negative:
                while top > look:
                    top -= 1
                    if stack[top, 0] == _F_UNDO:
                        captures[stack[top, 1]] = stack[top, 2]
                fails = True
            else:
                kept = look
                for i in range(look + 1, top):
                    if stack[i, 0] == _F_UNDO:
                        kept = _push(stack, kept, _F_UNDO, stack[i, 1], stack[i, 2], 0)
                top = kept
                at, pos = after, before
        elif operation == BEGIN:
            fails = pos != begin
            at += 1
        elif operation == END:
            fails = pos != end
            at += 1
        elif operation == LINE_END:
            fails = not (pos == end or (pos == end - 1 and data[np.uint64(pos)] == 10))
            at += 1
        elif operation == BOUNDARY:
            before_it = pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]]
            after_it = pos < end and sets[np.uint64(a), data[np.uint64(pos)]]
            fails = before_it == after_it
            at += 1
        elif operation == BACKREF:
            first, last = captures[2 * a], captures[2 * a + 1]
            if first < 0 or last < 0 or pos + last - first > end:
                fails = True
            else:
                for i in range(last - first):
                    if data[np.uint64(first + i)] != data[np.uint64(pos + i)]:
                        fails = True
                        break
                if not fails:
                    pos += last - first
                    at += 1
        else:
            fails = True
        while fails:
            if top == 0:
                return NO_MATCH
            steps += 1
            top -= 1
            kind = stack[top, 0]
            if kind == _F_ALTERNATIVE:
                at, pos = stack[top, 1], stack[top, 2]
                fails = False
            elif kind == _F_UNDO:
                captures[stack[top, 1]] = stack[top, 2]
            elif kind == _F_REPEAT:
                at, low, last = stack[top, 1], stack[top, 2], stack[top, 3] - 1
                following = code[at, 4]
                if following >= 0:
                    while last >= low and not sets[np.uint64(following), data[np.uint64(last)]]:
                        last -= 1
                if last >= low:
                    if last > low:
                        stack[top, 3] = last
                        top += 1
                    pos = last
                    at += 1
                    fails = False
            elif kind == _F_LAZY:
                at, limit, last = stack[top, 1], stack[top, 2], stack[top, 3]
                a = code[at, 1]
                following = code[at, 4]
                found = False
                while last < limit and sets[np.uint64(a), data[np.uint64(last)]]:
                    last += 1
                    if following < 0 or (last < end and sets[np.uint64(following), data[np.uint64(last)]]):
                        found = True
                        break
                if found:
                    stack[top, 3] = last
                    top += 1
                    pos = last
                    at += 1
                    fails = False
            elif kind == _F_NOT_LOOK:
                at, pos = stack[top, 1], stack[top, 2]
                fails = False


@inlined
def search(
    code: np.ndarray,
    sets: np.ndarray,
    captures: np.ndarray,
    stack: np.ndarray,
    first: np.ndarray,
    anchored: bool,
    data: np.ndarray,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Begin and end of the first match in the text `data[begin:end]`; (NO_MATCH, 0) or (GAVE_UP, 0) without one.

    The first four are those of a `Program`.
    """
    n_fixed = 0  # characters that every match begins with, one class each: most places are passed over by them
    while code[n_fixed, 0] == SET:
        n_fixed += 1
    for start in range(begin, begin + 1 if anchored else end + 1):
        if start < end and not first[data[np.uint64(start)]]:
            continue
        if start + n_fixed > end:
            return NO_MATCH, 0
        is_possible = True
        for i in range(1, n_fixed):
            if not sets[np.uint64(code[i, 1]), data[np.uint64(start + i)]]:
                is_possible = False
                break
        if not is_possible:
            continue
        found = match_at(code, sets, captures, stack, 0, data, begin, end, start, False)
        if found == GAVE_UP:
            return GAVE_UP, 0
        if found >= 0:
            return start, found
    return NO_MATCH, 0
