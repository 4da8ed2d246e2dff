"""Named patterns that stand in for the variable parts of a message before it is mined.

A mask is written `<NAME>`. The masks decide more than the mining algorithm does, so they are stored with the model.
"""

from __future__ import annotations

import re
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
    def _steps(self) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
        """What is applied in turn: a pattern, and what takes the place of a match by its `lastindex` (0: no group)."""
        if self.in_turn:
            compiled = [(re.compile(pattern), f"<{name}>") for name, pattern in self.patterns]
            return [(pattern, (mask,) * (pattern.groups + 1)) for pattern, mask in compiled]
        if not self.patterns:
            return []
        # The boundary stands once before all alternatives, twice as fast as in each of them. The group that tells which
        # one matched stands at its end, so that `re` can pass an alternative over by its first character.
        alternatives = "|".join(f"(?:{pattern})(?P<mask_{i}>)" for i, (_, pattern) in enumerate(self.patterns))
        joined = re.compile(f"(?<![A-Za-z0-9])(?:{alternatives})")
        masks = [""] * (joined.groups + 1)
        for i, (name, _) in enumerate(self.patterns):
            masks[joined.groupindex[f"mask_{i}"]] = f"<{name}>"
        return [(joined, tuple(masks))]

    @cached_property
    def written(self) -> re.Pattern[str]:
        """Finds the masks in a masked text."""
        return re.compile("|".join(sorted({re.escape(f"<{name}>") for name, _ in self.patterns})) or "(?!)")

    def mask(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The text with its variable parts replaced, and what each mask in it stands for, in order.

        `<*>` never occurs in the masked text. A mask that the text itself spells out stands for itself.
        """
        if self.in_turn or ("<" in text and self.written.search(text)):
            return self._mask_exactly(text)
        values: list[str] = []
        for pattern, masks in self._steps:

            def replace(match: re.Match[str], masks: tuple[str, ...] = masks) -> str:
                values.append(match[0])
                return masks[match.lastindex or 0]

            text = pattern.sub(replace, text)
        return text.replace(WILDCARD, _ESCAPED_WILDCARD), tuple(values)

    def _mask_exactly(self, text: str) -> tuple[str, tuple[str, ...]]:
        """`mask` where a later pattern may match what an earlier one wrote, or the text spells a mask out."""
        spans: list[tuple[int, int, str]] = []  # begin and end in the text as it is by now, and what was there
        for pattern, masks in self._steps:
            pieces: list[str] = []
            kept: list[tuple[int, int, str]] = []
            done = shift = 0
            for match in pattern.finditer(text):
                begin, end = match.span()
                mask = masks[match.lastindex or 0]
                while spans and spans[0][1] <= begin:
                    kept.append((spans[0][0] + shift, spans[0][1] + shift, spans.pop(0)[2]))
                value, at = "", begin
                while spans and spans[0][0] < end:  # a mask that is matched in part is swallowed whole
                    first, last, original = spans.pop(0)
                    value, at = value + text[at:first] + original, last
                kept.append((begin + shift, begin + shift + len(mask), value + text[at:end]))
                pieces += (text[done:begin], mask)
                done, shift = end, shift + len(mask) - (end - begin)
            kept += [(begin + shift, end + shift, original) for begin, end, original in spans]
            text, spans = "".join(pieces) + text[done:], kept
        originals = {(begin, end): original for begin, end, original in spans}
        values = tuple(originals.get(match.span(), match[0]) for match in self.written.finditer(text))
        return text.replace(WILDCARD, _ESCAPED_WILDCARD), values

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


DEFAULT_MASKS = Masks(_DEFAULT_PATTERNS)
