"""Numbers, times, reasons and untrusted log text in words that people and parsers can read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ai_detect.reporting.reasons import Reason
from ai_detect.tables import NO_TIME, Int64Array

#: What a page or a terminal would not show as it is: controls, lone surrogates (undecodable bytes), direction tricks.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Longest template quoted in a sentence.
MAX_QUOTED = 110


def visible(text: str) -> str:
    r"""The text with what cannot be seen written out (`\x1b`, `\u202e`); an undecodable byte as `\x80`."""
    return _INVISIBLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def decodable(text: str) -> str:
    r"""The text with undecodable bytes written out, so that any JSON or CSV reader takes it."""
    return _SURROGATE.sub(_escaped, text)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, an ellipsis in place of the rest."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rfc3339(times: Int64Array) -> list[str | None]:
    """UTC times of nanoseconds, None for NO_TIME; all with as many decimals as the finest one needs."""
    known = times[times != NO_TIME]
    decimals = next((decimals for decimals in (0, 3, 6) if not np.any(known % 10 ** (9 - decimals))), 9)
    whole_seconds = np.floor_divide(times, 10**9)
    text = np.datetime_as_string(whole_seconds.astype("datetime64[s]"), unit="s").tolist()
    parts = (times - whole_seconds * 10**9) // 10 ** (9 - decimals)
    return [
        None if time == NO_TIME else f"{second}.{part:0{decimals}d}Z" if decimals else f"{second}Z"
        for time, second, part in zip(times.tolist(), text, parts.tolist(), strict=True)
    ]


def readable_time(time: str | None) -> str:
    """An RFC 3339 time for people, without the T and the Z; empty for None."""
    return "" if time is None else time.replace("T", " ").rstrip("Z")


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `450 ms`, `1.2 s`, `5 min 12 s`, `3 h 4 min`, `2 d 1 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    raise AssertionError("a minute or more has a unit")


def percent(share: float) -> str:
    """A share as `12 %`, with decimals where it is small or near all, never rounded to 0 % or 100 % unless it is."""
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    if share > 0.99:
        decimals = min(max(1, math.ceil(round(-math.log10(1 - share), 6)) - 2), 6)
        return f"{math.floor(share * 100 * 10**decimals) / 10**decimals:.{decimals}f} %"
    return f"{share * 100:.0f} %" if share >= 0.1 else f"{share * 100:.2g} %"


def p_text(p_value: float) -> str:
    """A p-value as people write it: `0.012`, `3e-06`."""
    return f"{p_value:.2g}"


def quoted(template: str) -> str:
    """A template between backticks, shortened, on one line."""
    return "`" + cut(visible(" ".join(template.split())), MAX_QUOTED).replace("`", "'") + "`"


def sentence(reason: Reason, templates: Sequence[str]) -> str:
    """One sentence that says what is wrong, `kind: what`; log text stands between backticks."""
    event, facts = quoted(templates[reason.event]), reason.facts
    if reason.kind in ("unseen_event", "rare_event"):
        here = f"; here {len(reason.positions):,} times" if len(reason.positions) > 1 else ""
        seen = f"only {facts['seen_in']:,}" if facts["seen_in"] else "none"
        return f"{LEADS[reason.kind]}: {event} is in {seen} of {facts['of']:,} training sessions{here}"
    if reason.kind == "count":
        low, high = int(facts["usual_low"]), int(facts["usual_high"])
        usual = "have none" if high == 0 else f"have {low}" if low == high else f"have {low} to {high}"
        run = f"{len(reason.positions)} surplus lines in a row; " if len(reason.positions) > 1 else ""
        return f"Too many: {run}{event} comes {_times(facts['count'])}, similar normal sessions {usual}"
    if reason.kind == "missing":
        n_others = len(reason.expected) - 1
        others = f" and {n_others} more {'message' if n_others == 1 else 'messages'}" if n_others else ""
        usual = f"{percent(facts['share'])} of similar normal sessions have"
        if facts["count"]:
            return f"Missing: {event}{others}; it comes only {_times(facts['count'])}, {usual} more"
        return f"Missing: {event}{others}, which {usual}"
    if reason.kind == "length":
        low, high = int(facts["usual_low"]), int(facts["usual_high"])
        usual = f"{low}" if low == high else f"{low} to {high}"
        what = "Too short" if facts["length"] < low else "Too long"
        return f"{what}: {facts['length']:,} messages, where 99 % of the training sessions have {usual}"
    if reason.kind == "gap":
        usual = f"within {duration(facts['usual_s'])}" if facts["usual_s"] > 0 else "at once"
        return f"Late: {event} comes {duration(facts['gap_s'])} after the line before it, in training {usual}"
    if reason.expected:
        other, chance = reason.expected[0]
        return f"Out of place: {event} where {quoted(templates[other])} was expected ({percent(chance)})"
    return f"Out of place: {event} does not come here in training"


LEADS = {"unseen_event": "New message", "rare_event": "Rare message"}


def _times(count: float) -> str:
    return {1: "once", 2: "twice"}.get(int(count), f"{int(count):,} times")
