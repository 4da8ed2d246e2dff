"""Header layouts: recognised from the lines, known by name, or given as a header string.

A layout splits a line into time, level, fields and the free text that is mined. A line that it does not recognise
belongs to the message before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ai_detect.config import unknown_name
from ai_detect.errors import ConfigError
from ai_detect.ingest import json_lines
from ai_detect.ingest.layouts import ALIASES, PATTERNS
from ai_detect.ingest.timestamps import TimeParser
from ai_detect.tables import LEVELS, NO_TIME

#: What a scanner hands on for the fields of a line: a match or a JSON object.
Attributes = re.Match[str] | dict[str, Any] | None
#: line -> (time ns, level, content, attributes), None where the line has no header of this layout.
Scanner = Callable[[str], tuple[int, int, str, Attributes] | None]

_SPELLINGS = {
    "trace": "trace verbose v finest finer t",
    "debug": "debug debug1 debug2 debug3 debug4 debug5 d fine dbg",
    "info": "info information informational i log config inf",
    "notice": "notice note n",
    "warning": "warning warn w",
    "error": "error err e severe failure",
    "critical": "critical crit c alert",
    "fatal": "fatal f panic emerg emergency s",
}
LEVEL_INDEX = {
    spelling: LEVELS.index(level)
    for level, words in _SPELLINGS.items()
    for word in words.split()
    for spelling in (word, word.upper(), word.capitalize())
}
_SYSLOG_SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
SYSLOG_LEVELS = tuple(LEVEL_INDEX[name] for name in _SYSLOG_SEVERITIES)
_TIME_FIELDS = ("date", "time", "timestamp", "datetime", "year", "month", "day")


#: Lines that continue a message wherever they stand.
_CONTINUATION = re.compile(
    r"\s|Caused by:|Suppressed:|Traceback \(|(?:[\w$]{1,64}\.){0,16}\w{0,64}(?:Exception|Error)(?::|$)|[)}\]]"
)


@dataclass(frozen=True)
class Header:
    """One line, split by its layout."""

    timestamp: int  # ns since the epoch, UTC; NO_TIME where absent
    level: int  # index into tables.LEVELS
    content: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class LogFormat:
    """A header layout; `resolve_format(layout.name, ...)` gives it again."""

    name: str
    fields: tuple[str, ...]  # those that a session key may name; of JSON, those seen in the sample
    new_scanner: Callable[[TimeParser], Scanner]  # reads times with this parser, whose state the lines before made
    pattern: re.Pattern[str] | None = None  # of layouts.py, where the layout is one of these

    @property
    def has_headers(self) -> bool:
        """Whether a line without a header can be told from one with it."""
        return self.name != "plain"

    def parse(self, line: str) -> Header | None:
        """Split one line on its own; None where it has no header of this layout."""
        scanned = self.new_scanner(TimeParser())(line)
        if scanned is None:
            return None
        timestamp, level, content, attributes = scanned
        found = {name: field_value(attributes, name) for name in field_names(attributes)}
        return Header(timestamp, level, content, {name: value for name, value in found.items() if value is not None})


def field_names(attributes: Attributes) -> tuple[str, ...]:
    """Names of the fields of one line."""
    if isinstance(attributes, re.Match):
        return _public_groups(attributes.re)
    return tuple(json_lines.field_names(attributes)) if attributes else ()


def field_value(attributes: Attributes, name: str) -> str | None:
    """The text of one field; None where the line has none or it is empty."""
    if isinstance(attributes, re.Match):
        return attributes[name] or None
    value = json_lines.lookup(attributes, name) if attributes else None
    return None if value is None else json_lines.as_text(value) or None


def detect_format(lines: Sequence[str]) -> LogFormat:
    """The most specific layout among those that recognise about as many of the lines as any does.

    Lines that continue others (indented ones, parts of stack traces) are not asked. `plain` where no layout has the
    majority.
    """
    asked = [line for line in lines if line and not _CONTINUATION.match(line)]
    matches: dict[str, float] = {}
    for name in ("json", *PATTERNS):
        matches[name] = _share(LAYOUTS[name], asked)
        if matches[name] == 1:  # none recognises more
            break
    best = max(matches.values())
    if best <= 0.5:
        return LAYOUTS["plain"]
    name = next(name for name, share in matches.items() if share >= 0.95 * best)
    return _json_layout(None, asked) if name == "json" else LAYOUTS[name]


def compile_header(header: str) -> LogFormat:
    """The layout of a header string as loghub writes them: `<Date> <Time> <Pid> <Level> <Component>: <Content>`.

    A blank stands for any white space; a backslash before a character is dropped; `( \\[<Pid>\\])?` is optional. Fields
    named Date, Time, Timestamp, DateTime, Year, Month and Day make the time, Level the level; where there are time
    fields, a line whose time cannot be read is no header. Raises ConfigError.
    """
    names = re.findall(r"<(\w+)>", header)
    problem = None
    if not header.endswith("<Content>"):
        problem = "must end with <Content>"
    elif len(set(names)) < len(names):
        problem = "names a field twice"
    elif not all(name.isidentifier() for name in names):
        problem = "has a field whose name does not begin with a letter"
    elif re.search("[\x01\x02]", header):
        problem = "holds control characters"
    elif re.search(r"><", header):
        problem = "has two fields with nothing between them"
    if problem:
        example = "<Date> <Time> <Level> <Component>: <Content>"
        raise ConfigError(f"--log_format {header!r}: the header string {problem}; example: {example!r}")
    pattern = re.compile(_header_pattern(header), re.DOTALL)
    lower = {name.lower(): name for name in names}
    combinations = [
        tuple(name for name in names if name.lower() in _TIME_FIELDS),
        *((lower[name],) for name in ("timestamp", "datetime") if name in lower),
        *(tuple(lower[name] for name in pair) for pair in (("date", "time"),) if set(pair) <= set(lower)),
        *((lower[name],) for name in ("time", "date") if name in lower),
    ]
    times = list(dict.fromkeys(combination for combination in combinations if combination))
    return LogFormat(header, _public_groups(pattern), partial(_header_scanner, pattern, times, lower.get("level")))


def resolve_format(setting: str, sample: Sequence[str], message_field: str | None = None) -> LogFormat:
    """The layout that `--log_format` asks for; `sample` is read for `auto`, and for the fields of JSON.

    Raises ConfigError for an unknown name, a bad header string, a layout that no line of the sample has, or a message
    field that does not exist.
    """
    if setting == "auto":
        layout = detect_format(sample)
    elif setting in LAYOUTS:
        layout = LAYOUTS[setting]
    elif "<" in setting:
        layout = compile_header(setting)
    else:
        unknown = unknown_name(setting, {**LAYOUTS, "auto": None}, "layout")
        raise ConfigError(f"--log_format: {unknown}; known are auto, {', '.join(LAYOUTS)}, or a header string")
    if layout.name == "json":
        layout = _json_layout(message_field, sample)
        if message_field is not None and message_field not in layout.fields:
            known = ", ".join(layout.fields)
            raise ConfigError(f"--message_field {message_field}: no line has this field; there are: {known}")
    elif message_field is not None:
        raise ConfigError(f"--message_field {message_field}: only JSON lines have one; this log is '{layout.name}'")
    lines = [line for line in sample if line.strip()]
    if setting != "auto" and lines and not _share(layout, lines):
        raise ConfigError(
            f"--log_format {setting}: none of the first {len(lines)} lines has this header, for example "
            f"{lines[0][:120]!r}; auto would take '{detect_format(lines).name}'"
        )
    return layout


def named_format(name: str, message_field: str | None = None) -> LogFormat:
    """The layout of this name, as `resolve_format` has found it for a log."""
    return _json_layout(message_field, ()) if name == "json" else LAYOUTS.get(name) or compile_header(name)


def _share(layout: LogFormat, lines: Sequence[str]) -> float:
    finds: Callable[[str], object | None] = layout.new_scanner(TimeParser())
    if layout.pattern is not None:  # which is all that decides
        finds = layout.pattern.fullmatch
    return sum(found is not None for found in map(finds, lines)) / max(1, len(lines))


def _public_groups(pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(name for name in pattern.groupindex if name.lower() != "content")


def _level(text: str | None) -> int:
    if text is None:
        return 0
    index = LEVEL_INDEX.get(text)
    return index if index is not None else LEVEL_INDEX.get(text.lower(), 0)


def _pattern_scanner(pattern: re.Pattern[str], clock: TimeParser) -> Scanner:
    match_line = pattern.fullmatch
    groups = pattern.groupindex
    time_group, content_group, level_group = groups["time"], groups["content"], groups.get("level", 0)
    by_word = "level" in groups

    def scan(line: str) -> tuple[int, int, str, Attributes] | None:
        match = match_line(line)
        if match is None:
            return None
        time_text, level_text, content = match.group(time_group, level_group, content_group)
        timestamp = clock(time_text)
        level = _level(level_text) if by_word else 0
        return NO_TIME if timestamp is None else timestamp, level, content, match

    return scan


def _syslog_scanner(pattern: re.Pattern[str], clock: TimeParser) -> Scanner:
    """The level of a syslog line is the severity in its priority, where that was kept."""
    scan_line = _pattern_scanner(pattern, clock)

    def scan(line: str) -> tuple[int, int, str, Attributes] | None:
        scanned = scan_line(line)
        if scanned is None or not isinstance(scanned[3], re.Match) or not (priority := scanned[3]["priority"]):
            return scanned
        return scanned[0], SYSLOG_LEVELS[int(priority) % 8], scanned[2], scanned[3]

    return scan


def _access_scanner(pattern: re.Pattern[str], clock: TimeParser) -> Scanner:
    """The text is the request and its status, written `HTTP404`: a word, which survives the masking of numbers."""
    scan_line = _pattern_scanner(pattern, clock)
    server_error, client_error, fine = LEVEL_INDEX["error"], LEVEL_INDEX["warning"], LEVEL_INDEX["info"]

    def scan(line: str) -> tuple[int, int, str, Attributes] | None:
        scanned = scan_line(line)
        if scanned is None or not isinstance(scanned[3], re.Match):
            return scanned
        status = scanned[3]["status"]
        level = server_error if status >= "500" else client_error if status >= "400" else fine
        return scanned[0], level, f"{scanned[2]} HTTP{status}", scanned[3]

    return scan


def _json_scanner(message_field: str | None, clock: TimeParser) -> Scanner:

    def scan(line: str) -> tuple[int, int, str, Attributes] | None:
        record = json_lines.parse_object(line)
        if record is None:
            return None
        content = json_lines.find_message(record, message_field, line)
        return json_lines.find_time(record, clock), _level(json_lines.find_level(record)), content, record

    return scan


def _header_scanner(
    pattern: re.Pattern[str], times: Sequence[tuple[str, ...]], level_field: str | None, clock: TimeParser
) -> Scanner:
    order = list(clock.state.order or range(len(times)))

    def scan(line: str) -> tuple[int, int, str, Attributes] | None:
        match = pattern.fullmatch(line)
        if match is None:
            return None
        level = _level(match[level_field]) if level_field else 0
        for index, combination in enumerate(order):
            timestamp = clock(" ".join(match[name] or "" for name in times[combination]))
            if timestamp is not None:
                if index:  # the combination that reads the times of this log goes first from now on
                    order.insert(0, order.pop(index))
                    clock.state = clock.state._replace(order=tuple(order))
                return timestamp, level, match["Content"], match
        return None if order else (NO_TIME, level, match["Content"], match)

    return scan


def _header_pattern(header: str) -> str:
    """A header string as a regular expression; no field is tried at two lengths unless optional parts ask for it."""
    marked = re.sub(r"\(((?:\\.|[^()\\])*)\)\?", "\x01\\1\x02", header)
    pieces = re.split(r"<(\w+)>", marked)
    literals = [_literal_pattern(piece) for piece in pieces[0::2]]
    pattern = literals[0]
    for name, before, after in zip(pieces[1:-2:2], literals, literals[1:], strict=False):
        if after.startswith(r"\s"):
            pattern += rf"(?P<{name}>\S{{1,512}}){after}"
            continue
        # after a run of blanks, a field that could begin with a blank could begin anywhere
        first = r"\S" if before.endswith(r"\s+") else "."
        field = rf"(?P<{name}>{first}.{{0,511}}?)"
        # a lookahead is never entered again: the first length that fits is the only one
        pattern += field + after if marked != header else rf"(?={field}{after})(?P={name}){after}"
    return pattern + "(?P<Content>.*)"


def _literal_pattern(text: str) -> str:
    """What stands between two fields, as a regular expression."""
    tokens = re.findall(r"\\.|\s+|.", text, re.DOTALL)
    special = {"\x01": "(?:", "\x02": ")?"}
    return "".join(r"\s+" if token.isspace() else special.get(token) or re.escape(token[-1]) for token in tokens)


def _json_layout(message_field: str | None, sample: Sequence[str]) -> LogFormat:
    names: dict[str, None] = {}
    for line in sample:
        names.update(dict.fromkeys(json_lines.field_names(json_lines.parse_object(line) or {})))
    return LogFormat("json", tuple(names), partial(_json_scanner, message_field))


def _pattern_layout(name: str) -> LogFormat:
    pattern = re.compile(PATTERNS[name], re.DOTALL)
    new_scanner = _pattern_scanner
    if "priority" in pattern.groupindex:
        new_scanner = _syslog_scanner
    elif "status" in pattern.groupindex:
        new_scanner = _access_scanner
    return LogFormat(name, _public_groups(pattern), partial(new_scanner, pattern), pattern)


def _plain_scan(line: str) -> tuple[int, int, str, Attributes] | None:
    return NO_TIME, 0, line, None


LAYOUTS: dict[str, LogFormat] = {
    "json": _json_layout(None, ()),
    **{name: _pattern_layout(name) for name in PATTERNS},
    "plain": LogFormat("plain", (), lambda clock: _plain_scan),
}
LAYOUTS.update({alias: LAYOUTS[name] for alias, name in ALIASES.items()})
