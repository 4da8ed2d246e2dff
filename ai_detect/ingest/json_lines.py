"""JSON lines: which field is the message, the time, the level, and how values become text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ai_detect.ingest.timestamps import TimeParser
from ai_detect.tables import NO_TIME

_MESSAGE_FIELDS = tuple("message msg MESSAGE log @message event body text short_message".split())  # noqa: SIM905
_TIME_FIELDS = tuple("timestamp @timestamp time ts datetime t date asctime __REALTIME_TIMESTAMP Timestamp".split())  # noqa: SIM905
_LEVEL_FIELDS = tuple("level severity levelname log.level loglevel PRIORITY lvl s SeverityText Level".split())  # noqa: SIM905
#: Surrogates that surrogateescape cannot turn back into bytes: only a JSON escape can make them.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def parse_object(line: str) -> dict[str, Any] | None:
    """The JSON object on this line; None where the line is anything else."""
    if line[:1] != "{" and line.lstrip()[:1] != "{":
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def lookup(record: dict[str, Any], name: str) -> Any:
    """The value of a field; a dotted name reaches into nested objects; None where it is absent."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def field_names(record: dict[str, Any]) -> Iterator[str]:
    """Names that `lookup` takes: the fields, and those of nested objects with a dot."""
    for name, value in record.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def as_text(value: Any) -> str:
    """A JSON value as one line of text that can be written as UTF-8 with surrogateescape."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _LONE_SURROGATE.sub("\ufffd", text) if not text.isascii() else text


def find_message(record: dict[str, Any], message_field: str | None, line: str) -> str:
    """The text that is mined: the given field, else the first known one, else the whole line."""
    names = _MESSAGE_FIELDS if message_field is None else (message_field,)
    for name in names:
        value = lookup(record, name)
        if value is not None:
            return as_text(value)
    return line


def find_time(record: dict[str, Any], clock: TimeParser) -> int:
    """The record's time in ns since the epoch; numbers are seconds, ms, us or ns by their size."""
    for name in _TIME_FIELDS:
        value = record.get(name)
        if isinstance(value, dict):  # MongoDB: {"$date": ...}
            value = value.get("$date")
        if isinstance(value, str):
            time = clock(value)
            if time is not None:
                return time
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and 1e8 <= value < 9e18:
            scale = 10 ** next(power for bound, power in ((1e11, 9), (1e14, 6), (1e17, 3), (1e19, 0)) if value < bound)
            time = value * scale if isinstance(value, int) else round(value * 1e6) * (scale // 1_000_000 or 1)
            if time < 1 << 63:
                return time
    return NO_TIME


def find_level(record: dict[str, Any]) -> str:
    """The record's level as text; syslog priorities and pino's and bunyan's numbers by their names."""
    for name in _LEVEL_FIELDS:
        value = lookup(record, name)
        if isinstance(value, str) and not value.isdigit():
            return value
        if isinstance(value, str) and len(value) <= 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return _SYSLOG_NAMES[value] if 0 <= value <= 7 else _NUMBERED.get(value, "")
    return ""


_SYSLOG_NAMES = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
_NUMBERED = {10: "trace", 20: "debug", 30: "info", 40: "warning", 50: "error", 60: "fatal"}
