"""Named patterns that stand in for the variable parts of a message before it is mined.

A mask is written `<NAME>`. The masks decide more than the mining algorithm does, so they are stored with the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Drain's wildcard; it never occurs in a masked text, where a literal one is written `<\*>`.
WILDCARD = "<*>"
_ESCAPED_WILDCARD = "<\\*>"
_NAME = re.compile(r"[^\s<>*\\]+")

_END = r"(?![A-Za-z0-9])"
_UNIT = r"(?=(?:[num\u00b5]?s|m|min|h|d|[kKMGT]i?[bB]?|B|bit|[kMG]?Hz|px)?" + _END + ")"
_DAY = r"(?:[MTWFS](?:on|ue|ed|hu|ri|at|un),? )?"
_MONTH = r"[JFMASOND](?:an|eb|ar|pr|ay|un|ul|ug|ep|ct|ov|ec)"
_CLOCK = r"\d\d?:\d\d:\d\d(?:[.,]\d{1,9})?"
_HEX = "[0-9A-Fa-f]"
_NAME_PART = "[A-Za-z0-9_.@%+=~$-]"

_DEFAULT_PATTERNS: tuple[tuple[str, str], ...] = (
    ("UUID", rf"{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}{_END}"),
    ("TIME", rf"\d{{4}}-\d\d-\d\d(?:[T ]{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?)?{_END}"),
    ("TIME", rf"\d\d/{_MONTH}/\d{{4}}(?::{_CLOCK}(?: [+-]\d{{4}})?)?{_END}"),
    ("TIME", rf"{_DAY}{_MONTH} [ \d]\d {_CLOCK}(?: (?:[A-Z]{{3,4}} )?\d{{4}})?{_END}"),
    ("TIME", _CLOCK + _END),
    ("MAC", rf"(?:{_HEX}{{2}}[:-]){{5}}{_HEX}{{2}}{_END}"),
    ("IP", rf"\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?::\d{{1,5}})?{_END}"),
    ("IP", rf"(?=[A-Fa-f:]{{0,5}}\d)(?:(?:{_HEX}{{1,4}}:){{1,7}}|:)(?::{_HEX}{{1,4}}){{1,7}}{_END}"),
    ("IP", rf"(?:{_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}{_END}"),
    ("HEX", rf"0[xX]{_HEX}+{_END}"),
    ("NUM", r"[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d{1,3})?" + _UNIT),
    ("HEX", rf"(?=[a-f]{{0,64}}\d)[0-9a-f]{{8,}}{_END}|(?=[A-F]{{0,64}}\d)[0-9A-F]{{8,}}{_END}"),
    ("EMAIL", rf"[A-Za-z0-9._%+-]{{1,64}}@[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}}){{1,8}}{_END}"),
    ("URL", r"[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s\"'<>()\[\]{}]+"),
    # random identifiers such as base64url: long, with two digits, a small and a capital letter
    (
        "ID",
        r"(?=[A-Za-z0-9_-]{20})(?=(?:[A-Za-z_-]{0,64}\d){2})(?=[0-9A-Z_-]{0,64}[a-z])(?=[0-9a-z_-]{0,64}[A-Z])"
        r"[A-Za-z0-9_-]{20,128}(?![A-Za-z0-9_-])",
    ),
    ("PATH", rf"/{_NAME_PART}+/{_NAME_PART}+(?:/{_NAME_PART}+)*/?"),
    ("PATH", r"[A-Za-z]:\\[^\s\"'<>|*?]+"),
)


@dataclass(frozen=True)
class Masks:
    """Patterns by name, applied in one pass: leftmost match first, at equal places the earlier pattern.

    A pattern is tried only where no ASCII letter or digit stands before; unlike `\\b` this finds the number in
    `blk_123`. With `in_turn` the patterns are instead applied one after another over the whole text and begin anywhere,
    as Drain3 does. Raises ValueError for a name or a pattern that cannot be used.
    """

    patterns: tuple[tuple[str, str], ...]
    in_turn: bool = False

    def __post_init__(self) -> None:
        for name, pattern in self.patterns:
            if not _NAME.fullmatch(name):
                raise ValueError(f"mask name {name!r} must not be empty nor hold blanks or any of < > * \\")
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"mask {name}: {pattern!r:.200} is not a regular expression: {error}") from error
        try:
            self._steps  # noqa: B018  compiled at once, so that a clash of group names shows here
        except re.error as error:
            raise ValueError(f"masks cannot be joined into one regular expression: {error}") from error

    @cached_property
    def _steps(self) -> list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]:
        if self.in_turn:
            return [(re.compile(pattern), _constant(f"<{name}>")) for name, pattern in self.patterns]
        if not self.patterns:
            return []
        # The boundary stands once before all alternatives, twice as fast as in each of them. The group that tells which
        # one matched stands at its end, so that `re` can pass an alternative over by its first character.
        alternatives = "|".join(f"(?:{pattern})(?P<mask_{i}>)" for i, (_, pattern) in enumerate(self.patterns))
        masks = {f"mask_{i}": f"<{name}>" for i, (name, _) in enumerate(self.patterns)}
        return [(re.compile(f"(?<![A-Za-z0-9])(?:{alternatives})"), lambda match: masks[match.lastgroup or ""])]

    def mask(self, text: str) -> str:
        """The text with its variable parts replaced; `<*>` never occurs in the result."""
        for pattern, replacement in self._steps:
            text = pattern.sub(replacement, text)
        return text.replace(WILDCARD, _ESCAPED_WILDCARD)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"in_turn": self.in_turn, "patterns": [list(pattern) for pattern in self.patterns]}

    @classmethod
    def from_json(cls, value: Any) -> Masks:
        """The masks of `as_json`; raises ValueError for anything else."""
        if not isinstance(value, dict) or set(value) != {"in_turn", "patterns"}:
            raise ValueError("masks must hold in_turn and patterns")
        patterns = value["patterns"]
        if type(value["in_turn"]) is not bool or not isinstance(patterns, list):
            raise ValueError("masks: in_turn must be true or false and patterns a list")
        for pattern in patterns:
            if not (isinstance(pattern, list) and len(pattern) == 2 and all(isinstance(part, str) for part in pattern)):
                raise ValueError(f"masks: expected [name, regular expression], found {pattern!r:.100}")
        return cls(tuple((name, pattern) for name, pattern in patterns), value["in_turn"])


def _constant(mask: str) -> Callable[[re.Match[str]], str]:
    return lambda match: mask


DEFAULT_MASKS = Masks(_DEFAULT_PATTERNS)
