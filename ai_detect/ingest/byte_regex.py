"""Python's regular expressions over ASCII bytes, in compiled code, with exactly the matches of `re`.

A pattern is read by Python's own parser, so its tree is the one that `re` itself works from; the members of a character
class are asked of `re`, character by character. The program that comes out is run by a backtracking machine that tries
what `re` tries in the same order. What it does not know, and whatever takes too many steps, is left to `re`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ai_detect.ingest.compiled import compiled

if sys.version_info >= (3, 11):
    from re import _parser as _re_parser  # type: ignore[attr-defined]
else:
    import sre_parse as _re_parser

NO_MATCH = -1
GAVE_UP = -2
#: What the machine may do for one match; `re` is asked where it does not suffice.
_MAX_STEPS = 20_000
_STACK_ROWS = 4_096
_MAX_OPERATIONS = 4_096
_MAX_BYTE = 256

_MATCH, _SET, _REPEAT, _LAZY, _SPLIT, _JUMP, _SAVE, _PEEK, _NOT_PEEK, _PREV, _NOT_PREV = range(11)
_LOOK, _NOT_LOOK, _LOOK_END, _BEGIN, _END, _LINE_END, _BOUNDARY, _BACKREF, _FAIL = range(11, 20)
_OF_A_CLASS = (_SET, _REPEAT, _LAZY, _PEEK, _NOT_PEEK, _PREV, _NOT_PREV, _BOUNDARY)
# Kinds of frames on the stack of the machine.
_F_ALTERNATIVE, _F_UNDO, _F_REPEAT, _F_LAZY, _F_LOOK, _F_NOT_LOOK = range(6)


class Program(NamedTuple):
    """What the machine runs: operations of six numbers, and the character classes that they name."""

    code: np.ndarray  # (n, 6) int32: operation, three operands, class of the next byte (-1: any), is it disjoint
    sets: np.ndarray  # (n, 256) bool
    captures: np.ndarray  # (2 * groups + 2,) int64, begin and end of each group, -1 where it took no part
    stack: np.ndarray  # (n, 4) int64


class UnknownPattern(ValueError):
    """The pattern holds something that only `re` can match."""


@dataclass(frozen=True)
class BytePattern:
    """A pattern that the machine can run. `needs` are sets of which every match, or what follows it, has a member."""

    program: Program
    first: np.ndarray  # (256,) bool: bytes that a match may begin with
    needs: frozenset[frozenset[int]]
    is_anchored: bool  # matches at the beginning of the text or nowhere
    min_width: int


def byte_pattern(pattern: re.Pattern[str], groups: bool = True) -> BytePattern:
    """The program of a pattern; without `groups` only the whole match can be asked for. Raises UnknownPattern."""
    tree = _re_parser.parse(pattern.pattern, pattern.flags)
    translator = _Translator(tree.state.flags, groups)
    try:
        translator.sequence(tree)
        translator.add(_MATCH)
        code = np.array(translator.code, np.int32).reshape(-1, 6)
        sets = np.array(translator.sets or [(False,) * _MAX_BYTE], np.bool_)
        needs = frozenset(frozenset(need) for need in _needs(tree, tree.state.flags))
    except RecursionError as error:
        raise UnknownPattern("the pattern is nested too deeply") from error
    _look_ahead(code, sets)
    captures = np.full(2 * tree.state.groups if groups else 0, -1, np.int64)
    program = Program(code, sets, captures, np.zeros((_STACK_ROWS, 4), np.int64))
    return BytePattern(program, _first(code, sets), needs, bool(code[0, 0] == _BEGIN), tree.getwidth()[0])


def joined(patterns: Sequence[BytePattern]) -> tuple[Program, np.ndarray]:
    """One program that holds all of these, none of which has groups, and the operation that each begins with."""
    codes, sets, entries = [], [], []
    n_operations = n_sets = 0
    for pattern in patterns:
        code = pattern.program.code.copy()
        jumps = np.isin(code[:, 0], (_SPLIT, _JUMP, _LOOK, _NOT_LOOK))
        code[jumps, 1] += n_operations
        code[code[:, 0] == _SPLIT, 2] += n_operations
        code[np.isin(code[:, 0], _OF_A_CLASS), 1] += n_sets
        code[code[:, 4] >= 0, 4] += n_sets
        codes.append(code)
        sets.append(pattern.program.sets)
        entries.append(n_operations)
        n_operations += len(code)
        n_sets += len(pattern.program.sets)
    first = patterns[0].program
    return Program(np.concatenate(codes), np.concatenate(sets), np.zeros(0, np.int64), first.stack), np.array(entries)


@cache
def _members(source: str, flags: int) -> tuple[bool, ...]:
    """Which bytes a character class has, asked of `re`; none beyond ASCII, of which texts must consist."""
    match = re.compile(source, flags & (re.IGNORECASE | re.ASCII | re.DOTALL)).fullmatch
    return tuple(byte < 128 and match(chr(byte)) is not None for byte in range(_MAX_BYTE))


_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def _one_byte(node: Any, flags: int) -> tuple[bool, ...] | None:
    """The members of a node that matches one character; None where it is another node."""
    name, value = str(node[0]), node[1]
    if name == "LITERAL":
        return _members(_escaped(value), flags)
    if name == "NOT_LITERAL":
        return _members(f"[^{_escaped(value)}]", flags)
    if name == "ANY":
        return _members(".", flags)
    if name == "IN":
        parts = []
        for kind, item in value:
            if str(kind) == "NEGATE":
                parts.append("^")
            elif str(kind) == "LITERAL":
                parts.append(_escaped(item))
            elif str(kind) == "RANGE":
                parts.append(f"{_escaped(item[0])}-{_escaped(item[1])}")
            elif str(kind) == "CATEGORY" and str(item) in _CATEGORIES:
                parts.append(_CATEGORIES[str(item)])
            else:
                raise UnknownPattern(f"{kind} {item} in a character class")
        return _members(f"[{''.join(parts)}]", flags)
    if name == "SUBPATTERN" and value[0] is None and len(value[3]) == 1:
        return _one_byte(value[3][0], _with_flags(flags, value[1], value[2]))
    return None


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"


def _with_flags(flags: int, added: int, removed: int) -> int:
    return (flags | added) & ~removed


def _needs(sequence: Any, flags: int) -> Iterator[tuple[int, ...]]:
    """Sets of which a text must have a member for this sequence to match in it; not all that there are."""
    for node in sequence:
        name, value = str(node[0]), node[1]
        members = _one_byte(node, flags)
        if members is not None:
            yield tuple(byte for byte in range(128) if members[byte])
        elif name == "SUBPATTERN":
            yield from _needs(value[3], _with_flags(flags, value[1], value[2]))
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and value[0] > 0:
            yield from _needs(value[2], flags)
        elif name == "ASSERT" and value[0] > 0:
            yield from _needs(value[1], flags)
        elif name == "BRANCH":
            branches = [set(_needs(branch, flags)) for branch in value[1]]
            yield from set.intersection(*branches)


class _Translator:
    """Operations of a pattern's tree."""

    def __init__(self, flags: int, groups: bool) -> None:
        if flags & (re.MULTILINE | re.LOCALE):
            raise UnknownPattern("flags m and L")
        self.flags = flags
        self.groups = groups
        self.code: list[list[int]] = []
        self.sets: list[tuple[bool, ...]] = []
        self._repeated = False

    def add(self, operation: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        """Add an operation; returns where it stands."""
        if len(self.code) >= _MAX_OPERATIONS:
            raise UnknownPattern("the pattern is too long")
        self.code.append([operation, a, b, c, -1, 0])
        return len(self.code) - 1

    def number(self, members: tuple[bool, ...]) -> int:
        """The number of a character class."""
        if members not in self.sets:
            self.sets.append(members)
        return self.sets.index(members)

    def sequence(self, nodes: Any) -> None:
        """Nodes one after another."""
        for node in nodes:
            self.node(node)

    def node(self, node: Any) -> None:
        """One node of the tree."""
        name, value = str(node[0]), node[1]
        members = _one_byte(node, self.flags)
        if members is not None:
            self.add(_SET, self.number(members))
        elif name == "SUBPATTERN":
            self.subpattern(*value)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            self.repeat(value[0], value[1], value[2], name == "MIN_REPEAT")
        elif name == "BRANCH":
            self.branch(value[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            self.look(value[0], value[1], name == "ASSERT_NOT")
        elif name == "AT":
            self.at(str(value))
        elif name == "GROUPREF" and self.groups and not self.flags & re.IGNORECASE:
            self.add(_BACKREF, value)
        elif name == "FAILURE":
            self.add(_FAIL)
        else:
            raise UnknownPattern(f"{name} is not known")

    def subpattern(self, group: int | None, added: int, removed: int, inner: Any) -> None:
        """A group, which may have flags of its own."""
        before = self.flags
        self.flags = _with_flags(before, added, removed)
        if group is None or not self.groups:
            self.sequence(inner)
        elif self._repeated:
            raise UnknownPattern("a group that is repeated")
        else:
            self.add(_SAVE, 2 * group)
            self.sequence(inner)
            self.add(_SAVE, 2 * group + 1)
        self.flags = before

    def repeat(self, low: int, high: int, inner: Any, is_lazy: bool) -> None:
        """A repetition; other than of single characters it is written out."""
        endless = high is _re_parser.MAXREPEAT or high >= 1 << 30
        members = _one_byte(inner[0], self.flags) if len(inner) == 1 else None
        if members is not None:
            self.add(_LAZY if is_lazy else _REPEAT, self.number(members), int(low), -1 if endless else int(high))
            return
        if (endless or high > 1) and inner.getwidth()[0] == 0:
            raise UnknownPattern("a repetition of what may be empty")
        before, self._repeated = self._repeated, self._repeated or endless or high > 1
        for _ in range(low):
            self.sequence(inner)
        splits = []
        for _ in range(1 if endless else high - low):
            splits.append(self.add(_SPLIT))
            self.sequence(inner)
        if endless:
            self.add(_JUMP, splits[0])
        for split in splits:
            paths = split + 1, len(self.code)
            self.code[split][1:3] = paths[::-1] if is_lazy else paths
        self._repeated = before

    def branch(self, branches: Any) -> None:
        """Alternatives, the earlier first."""
        jumps = []
        for inner in branches[:-1]:
            split = self.add(_SPLIT)
            self.sequence(inner)
            jumps.append(self.add(_JUMP))
            self.code[split][1:3] = split + 1, len(self.code)
        self.sequence(branches[-1])
        for jump in jumps:
            self.code[jump][1] = len(self.code)

    def look(self, direction: int, inner: Any, is_negative: bool) -> None:
        """What follows or precedes, without being part of the match."""
        members = _one_byte(inner[0], self.flags) if len(inner) == 1 else None
        if members is not None:
            operations = (_PEEK, _NOT_PEEK) if direction > 0 else (_PREV, _NOT_PREV)
            self.add(operations[is_negative], self.number(members))
        elif direction < 0:
            raise UnknownPattern("a look back at more than a character")
        elif not inner:
            if is_negative:
                self.add(_FAIL)
        else:
            look = self.add(_NOT_LOOK if is_negative else _LOOK)
            self.sequence(inner)
            self.add(_LOOK_END)
            self.code[look][1] = len(self.code)

    def at(self, place: str) -> None:
        """A condition on the place alone."""
        if place == "AT_BOUNDARY":
            self.add(_BOUNDARY, self.number(_members(r"\w", self.flags)))
            return
        known = {"AT_BEGINNING": _BEGIN, "AT_BEGINNING_STRING": _BEGIN, "AT_END": _LINE_END, "AT_END_STRING": _END}
        if place not in known:
            raise UnknownPattern(f"{place} is not known")
        self.add(known[place])


def _look_ahead(code: np.ndarray, sets: np.ndarray) -> None:
    """Note with each repetition which bytes can come next, and whether it could itself take them."""
    for at in range(len(code)):
        if code[at, 0] not in (_REPEAT, _LAZY):
            continue
        after = at + 1
        while code[after, 0] in (_SAVE, _JUMP):
            after = code[after, 1] if code[after, 0] == _JUMP else after + 1
        operation = code[after, 0]
        if operation in (_SET, _PEEK) or (operation in (_REPEAT, _LAZY) and code[after, 2] > 0):
            code[at, 4] = code[after, 1]
            code[at, 5] = not np.any(sets[code[at, 1]] & sets[code[after, 1]])


def _first(code: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Which bytes a match may begin with."""
    first = np.zeros(_MAX_BYTE, np.bool_)
    seen: set[int] = set()
    waiting = [0]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        operation, a, b = (int(number) for number in code[at, :3])
        if operation in (_MATCH, _BACKREF, _LOOK_END):
            first[:] = True
        elif operation == _SET:
            first |= sets[a]
        elif operation in (_REPEAT, _LAZY):
            first |= sets[a]
            if b == 0:
                waiting.append(at + 1)
        elif operation == _SPLIT:
            waiting += (a, b)
        elif operation in (_JUMP, _LOOK, _NOT_LOOK):
            waiting.append(a)
        elif operation != _FAIL:
            waiting.append(at + 1)
    return first


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
        if steps > _MAX_STEPS or top + 2 >= _STACK_ROWS:
            return GAVE_UP
        operation = code[at, 0]
        a = code[at, 1]
        fails = False
        if operation == _SET:
            if pos < end and sets[np.uint64(a), data[np.uint64(pos)]]:
                pos += 1
                at += 1
            else:
                fails = True
        elif operation == _REPEAT:
            high = code[at, 3]
            limit = end if high < 0 or end - pos < high else pos + high
            low = pos + code[at, 2]
            following = code[at, 4]
            last = pos
            while last < limit and sets[np.uint64(a), data[np.uint64(last)]]:
                last += 1
            if last < low:
                fails = True
            elif code[at, 5]:
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
        elif operation == _LAZY:
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
        elif operation == _MATCH:
            if not whole or pos == end:
                return pos
            fails = True
        elif operation == _SPLIT:
            top = _push(stack, top, _F_ALTERNATIVE, code[at, 2], pos, 0)
            at = a
        elif operation == _JUMP:
            at = a
        elif operation == _SAVE:
            top = _push(stack, top, _F_UNDO, a, captures[a], 0)
            captures[a] = pos
            at += 1
        elif operation == _PEEK:
            fails = not (pos < end and sets[np.uint64(a), data[np.uint64(pos)]])
            at += 1
        elif operation == _NOT_PEEK:
            fails = pos < end and sets[np.uint64(a), data[np.uint64(pos)]]
            at += 1
        elif operation == _PREV:
            fails = not (pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]])
            at += 1
        elif operation == _NOT_PREV:
            fails = pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]]
            at += 1
        elif operation in (_LOOK, _NOT_LOOK):
            top = _push(stack, top, _F_LOOK if operation == _LOOK else _F_NOT_LOOK, a, pos, 0)
            at += 1
        elif operation == _LOOK_END:
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
        elif operation == _BEGIN:
            fails = pos != begin
            at += 1
        elif operation == _END:
            fails = pos != end
            at += 1
        elif operation == _LINE_END:
            fails = not (pos == end or (pos == end - 1 and data[np.uint64(pos)] == 10))
            at += 1
        elif operation == _BOUNDARY:
            before_it = pos > begin and sets[np.uint64(a), data[np.uint64(pos - 1)]]
            after_it = pos < end and sets[np.uint64(a), data[np.uint64(pos)]]
            fails = before_it == after_it
            at += 1
        elif operation == _BACKREF:
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


@compiled
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
    while code[n_fixed, 0] == _SET:
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
