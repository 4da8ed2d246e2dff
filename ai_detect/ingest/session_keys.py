"""Which session a line belongs to, and its text without that session's name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from ai_detect.ingest.log_format import Attributes, field_value
from ai_detect.ingest.log_sources import LogSource

SESSION_TOKEN = "<SESSION>"

#: (raw line, its header's fields, mined text) -> (session key, text without the key)
KeyFinder = Callable[[str, Attributes, str], tuple[str | None, str]]


def find_by_regex(regex: str) -> KeyFinder:
    """The key is the first group that takes part in the first match in the raw line; the whole match where the pattern
    has no group. A line on which no group takes part has no key.
    """
    pattern = re.compile(regex)
    search, first, others = pattern.search, min(1, pattern.groups), range(2, pattern.groups + 1)

    def find(line: str, attributes: Attributes, text: str) -> tuple[str | None, str]:
        match = search(line)
        if match is None:
            return None, text
        group, key = first, match[first]
        if key is None:  # of another alternative
            group, key = next(((other, match[other]) for other in others if match[other] is not None), (0, None))
        if not key:
            return None, text
        return key, without_key(text, key, match.start(group) == len(line) - len(text))

    return find


def find_by_field(name: str) -> KeyFinder:
    """The key is a field of the header, or of the JSON object."""

    def find(line: str, attributes: Attributes, text: str) -> tuple[str | None, str]:
        key = field_value(attributes, name)
        return key, text if key is None else without_key(text, key, False)

    return find


def without_key(text: str, key: str, begins_text: bool) -> str:
    """The text without its session key, with which every session would have templates of its own.

    A key of digits alone is left to the masks unless it was found at the very beginning: elsewhere the same digits may
    be a count.
    """
    if key.isdigit():
        return text[len(key) :].lstrip() if begins_text and text.startswith(key) else text
    if key not in text:
        return text
    parts: list[str] = []
    done = 0
    while (found := text.find(key, done)) >= 0:
        end = found + len(key)
        if (key[0].isalnum() and text[max(0, found - 1) : found].isalnum()) or (
            key[-1].isalnum() and text[end : end + 1].isalnum()
        ):  # part of a longer word
            parts.append(text[done:end])
        elif found == 0:
            end += len(text) - end - len(text[end:].lstrip())
        else:
            parts += (text[done:found], SESSION_TOKEN)
        done = end
    return "".join(parts) + text[done:]


def file_keys(sources: Sequence[LogSource]) -> dict[str, str]:
    """A short distinct name for each file: its path below the folder that all share."""
    paths = {source.path: os.path.abspath(source.path) for source in sources}
    folder = os.path.join(os.path.commonpath({os.path.dirname(path) for path in paths.values()}), "")
    return {name: path.removeprefix(folder).replace(os.sep, "/") for name, path in paths.items()}
