"""Python's regular expressions over ASCII bytes, in compiled code, with exactly the matches of `re`.

A pattern is read by Python's own parser, so its tree is the one that `re` itself works from; the members of a character
class are asked of `re`, character by character. The program that comes out is run by byte_machine.py. What is not known
here, and whatever takes too many steps there, is left to `re`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ai_detect.ingest import byte_machine as machine
from ai_detect.ingest.byte_machine import Program

if sys.version_info >= (3, 11):
    from re import _parser as _re_parser  # type: ignore[attr-defined]
else:
    import sre_parse as _re_parser

_MAX_OPERATIONS = 4_096
_MAX_BYTE = 256
#: Patterns whose programs are kept: a process reads many files of few layouts.
_MOST_KEPT = 256


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

    def anew(self) -> BytePattern:
        """The same with room of its own to run in."""
        program = self.program
        captures, stack = program.captures.copy(), np.empty((machine.STACK_ROWS, 4), np.int64)
        return replace(self, program=program._replace(captures=captures, stack=stack))


def byte_pattern(pattern: re.Pattern[str], groups: bool = True) -> BytePattern:
    """The program of a pattern; without `groups` only the whole match can be asked for. Raises UnknownPattern."""
    return _translated(pattern, groups).anew()


@lru_cache(_MOST_KEPT)
def _translated(pattern: re.Pattern[str], groups: bool) -> BytePattern:
    tree = _re_parser.parse(pattern.pattern, pattern.flags)
    translator = _Translator(tree.state.flags, groups)
    try:
        translator.sequence(tree)
        translator.add(machine.MATCH)
        code = np.array(translator.code, np.int32).reshape(-1, 6)
        sets = np.frombuffer(b"".join(translator.sets) or bytes(_MAX_BYTE), np.bool_).reshape(-1, _MAX_BYTE)
        needs = frozenset(frozenset(need) for need in _needs(tree, tree.state.flags))
    except RecursionError as error:
        raise UnknownPattern("the pattern is nested too deeply") from error
    _look_ahead(code, sets)
    sets = _look_at_splits(code, sets)
    captures = np.full(2 * tree.state.groups if groups else 0, -1, np.int64)
    program = Program(code, sets, captures, np.empty((0, 4), np.int64))
    return BytePattern(program, _first(code, sets, 0, {}), needs, bool(code[0, 0] == machine.BEGIN), tree.getwidth()[0])


def joined(patterns: Sequence[BytePattern]) -> tuple[Program, np.ndarray]:
    """One program that holds all of these, none of which has groups, and the operation that each begins with."""
    codes, sets, entries = [], [], []
    n_operations = n_sets = 0
    for pattern in patterns:
        code = pattern.program.code.copy()
        jumps = np.isin(code[:, 0], (machine.SPLIT, machine.JUMP, machine.LOOK, machine.NOT_LOOK))
        code[jumps, 1] += n_operations
        splits = code[:, 0] == machine.SPLIT
        code[splits, 2] += n_operations
        code[splits & (code[:, 3] >= 0), 3] += n_sets
        code[np.isin(code[:, 0], machine.OF_A_CLASS), 1] += n_sets
        code[code[:, 4] >= 0, 4] += n_sets
        codes.append(code)
        sets.append(pattern.program.sets)
        entries.append(n_operations)
        n_operations += len(code)
        n_sets += len(pattern.program.sets)
    first = patterns[0].program
    return Program(np.concatenate(codes), np.concatenate(sets), np.zeros(0, np.int64), first.stack), np.array(entries)


@cache
def _members(source: str, flags: int) -> bytes:
    """Which bytes a character class has (1 or 0), asked of `re`; none beyond ASCII, of which texts must consist."""
    match = re.compile(source, flags & (re.IGNORECASE | re.ASCII | re.DOTALL)).fullmatch
    return bytes(byte < 128 and match(chr(byte)) is not None for byte in range(_MAX_BYTE))


_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def _one_byte(node: Any, flags: int) -> bytes | None:
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


@cache
def _listed(members: bytes) -> tuple[int, ...]:
    return tuple(byte for byte, is_member in enumerate(members) if is_member)


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
            yield _listed(members)
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
        self.sets: list[bytes] = []
        self._repeated = False

    def add(self, operation: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        """Add an operation; returns where it stands."""
        if len(self.code) >= _MAX_OPERATIONS:
            raise UnknownPattern("the pattern is too long")
        self.code.append([operation, a, b, c, -1, 0])
        return len(self.code) - 1

    def number(self, members: bytes) -> int:
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
            self.add(machine.SET, self.number(members))
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
            self.add(machine.BACKREF, value)
        elif name == "FAILURE":
            self.add(machine.FAIL)
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
            self.add(machine.SAVE, 2 * group)
            self.sequence(inner)
            self.add(machine.SAVE, 2 * group + 1)
        self.flags = before

    def repeat(self, low: int, high: int, inner: Any, is_lazy: bool) -> None:
        """A repetition; other than of single characters it is written out."""
        endless = high is _re_parser.MAXREPEAT or high >= 1 << 30
        members = _one_byte(inner[0], self.flags) if len(inner) == 1 else None
        if members is not None:
            self.add(
                machine.LAZY if is_lazy else machine.REPEAT,
                self.number(members),
                int(low),
                -1 if endless else int(high),
            )
            return
        if (endless or high > 1) and inner.getwidth()[0] == 0:
            raise UnknownPattern("a repetition of what may be empty")
        before, self._repeated = self._repeated, self._repeated or endless or high > 1
        for _ in range(low):
            self.sequence(inner)
        splits = []
        for _ in range(1 if endless else high - low):
            splits.append(self.add(machine.SPLIT))
            self.sequence(inner)
        if endless:
            self.add(machine.JUMP, splits[0])
        for split in splits:
            paths = split + 1, len(self.code)
            self.code[split][1:3] = paths[::-1] if is_lazy else paths
        self._repeated = before

    def branch(self, branches: Any) -> None:
        """Alternatives, the earlier first."""
        jumps = []
        for inner in branches[:-1]:
            split = self.add(machine.SPLIT)
            self.sequence(inner)
            jumps.append(self.add(machine.JUMP))
            self.code[split][1:3] = split + 1, len(self.code)
        self.sequence(branches[-1])
        for jump in jumps:
            self.code[jump][1] = len(self.code)

    def look(self, direction: int, inner: Any, is_negative: bool) -> None:
        """What follows or precedes, without being part of the match."""
        members = _one_byte(inner[0], self.flags) if len(inner) == 1 else None
        if members is not None:
            operations = (machine.PEEK, machine.NOT_PEEK) if direction > 0 else (machine.PREV, machine.NOT_PREV)
            self.add(operations[is_negative], self.number(members))
        elif direction < 0:
            raise UnknownPattern("a look back at more than a character")
        elif not inner:
            if is_negative:
                self.add(machine.FAIL)
        else:
            look = self.add(machine.NOT_LOOK if is_negative else machine.LOOK)
            self.sequence(inner)
            self.add(machine.LOOK_END)
            self.code[look][1] = len(self.code)

    def at(self, place: str) -> None:
        """A condition on the place alone."""
        if place == "AT_BOUNDARY":
            self.add(machine.BOUNDARY, self.number(_members(r"\w", self.flags)))
            return
        known = {
            "AT_BEGINNING": machine.BEGIN,
            "AT_BEGINNING_STRING": machine.BEGIN,
            "AT_END": machine.LINE_END,
            "AT_END_STRING": machine.END,
        }
        if place not in known:
            raise UnknownPattern(f"{place} is not known")
        self.add(known[place])


def _look_ahead(code: np.ndarray, sets: np.ndarray) -> None:
    """Note with each repetition which bytes can come next, and whether it could itself take them, or any byte."""
    for at in range(len(code)):
        if code[at, 0] not in (machine.REPEAT, machine.LAZY):
            continue
        code[at, 5] = machine.TAKES_ALL * sets[code[at, 1], :128].all()
        after = at + 1
        while code[after, 0] in (machine.SAVE, machine.JUMP):
            after = code[after, 1] if code[after, 0] == machine.JUMP else after + 1
        operation = code[after, 0]
        if operation in (machine.SET, machine.PEEK) or (
            operation in (machine.REPEAT, machine.LAZY) and code[after, 2] > 0
        ):
            code[at, 4] = code[after, 1]
            code[at, 5] |= machine.IS_DISJOINT * (not np.any(sets[code[at, 1]] & sets[code[after, 1]]))


def _look_at_splits(code: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Note with each choice which bytes can come next on either path; returns the classes with those for it."""
    known: dict[int, np.ndarray] = {}
    classes = {members.tobytes(): number for number, members in enumerate(sets)}
    for at in np.flatnonzero(code[:, 0] == machine.SPLIT)[::-1].tolist():
        paths = [_first(code, sets, path, known) for path in code[at, 1:3].tolist()]
        known[at] = paths[0] | paths[1]
        for column, members in zip((3, 4), paths, strict=True):
            code[at, column] = -1 if members.all() else classes.setdefault(members.tobytes(), len(classes))
    return np.frombuffer(b"".join(classes), np.bool_).reshape(-1, _MAX_BYTE).copy()


def _first(code: np.ndarray, sets: np.ndarray, begin: int, known: dict[int, np.ndarray]) -> np.ndarray:
    """Which bytes a match of the operations from `begin` on may begin with: all where it may be empty. Of some
    operations that is `known`.
    """
    first = np.zeros(_MAX_BYTE, np.bool_)
    seen: set[int] = set()
    waiting = [begin]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        operation, a, b = code[at, :3].tolist()
        if at in known:
            first |= known[at]
        elif operation in (machine.MATCH, machine.BACKREF, machine.LOOK_END):
            first[:] = True
        elif operation == machine.SET:
            first |= sets[a]
        elif operation in (machine.REPEAT, machine.LAZY):
            first |= sets[a]
            if b == 0:
                waiting.append(at + 1)
        elif operation == machine.SPLIT:
            waiting += (a, b)
        elif operation in (machine.JUMP, machine.LOOK, machine.NOT_LOOK):
            waiting.append(a)
        elif operation != machine.FAIL:
            waiting.append(at + 1)
    return first
