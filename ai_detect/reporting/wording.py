"""Numbers, times, reasons and untrusted log text in words that people and parsers can read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.novelty import words_of
from ai_detect.reporting.reasons import Reason
from ai_detect.tables import NO_TIME, Int64Array

#: What a page or a terminal would not show as it is: controls, lone surrogates (undecodable bytes), direction tricks.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Longest template quoted in a sentence.
MAX_QUOTED = 110
#: A new message that has so many words which a known one lacks, and twice as many that it has, is told by these words.
MAX_NEW_WORDS = 2


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


def decimals_of(times: Int64Array) -> int:
    """Decimals of seconds that the finest of these nanoseconds needs: 0, 3, 6 or 9."""
    decimals = 0
    for block in scratch.blocks(len(times)):
        known = times[block][times[block] != NO_TIME]
        while decimals < 9 and np.any(known % 10 ** (9 - decimals)):
            decimals += 3
    return decimals


def rfc3339(times: Int64Array, decimals: int | None = None) -> list[str | None]:
    """UTC times of nanoseconds, None for NO_TIME; all with so many decimals, or as many as the finest one needs."""
    decimals = decimals_of(times) if decimals is None else decimals
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
        return f"{LEADS[reason.kind]}: {event} is in {_seen_in(facts)}{_but_for(reason, templates)}{here}"
    if reason.kind == "count" and "n_times" in facts:
        n_times = int(facts["n_times"])
        return f"Repeated: {int(facts['n_lines']):,} lines, from {event} on, come {n_times:,} times in a row"
    if reason.kind == "count":
        low, high = int(facts["usual_low"]), int(facts["usual_high"])
        usual = "have none" if high == 0 else f"have {low}" if low == high else f"have {low} to {high}"
        run = f"{len(reason.positions)} surplus lines in a row; " if len(reason.positions) > 1 else ""
        return f"Too many: {run}{event} comes {_times(facts['count'])}, similar normal sessions {usual}"
    if reason.kind == "missing":
        one_of = "share_here" in facts  # what is expected are alternatives
        if one_of and facts["share"] < 0.5:
            others = " or ".join(quoted(templates[other]) for other, share in reason.expected[1:] if share >= 0.1)
            others = f" (or {others})" if others else ""
            return f"Missing: {event}{others}, which training has between the lines beside it"
        n_others = 0 if one_of else len(reason.expected) - 1
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
    if reason.kind == "value":
        shown = (
            f"{percent(facts['share'])} of the training sessions have" if facts["share"] else "no training session has"
        )
        return f"Odd value: value {int(facts['value'])} of {event}; {shown} one as odd"
    if "n_reversed" in facts:
        before = f"{int(facts['n_reversed']):,} times in training, this order {_times(facts['n_so'])}"
        return f"Wrong order: {event} comes before {quoted(templates[reason.expected[0][0]])}; the other order {before}"
    if reason.expected:
        other, chance = reason.expected[0]
        return f"Out of place: {event} where {quoted(templates[other])} was expected ({percent(chance)})"
    return f"Out of place: {event} does not come here in training"


LEADS = {"unseen_event": "New message", "rare_event": "Rare message"}


#: What a view looks at, by the name that follows the detector in a component's.
VIEWS = {
    "presence": "which messages it has",
    "relations": "how often its messages come beside others",
    "severity": "how rare its failures are",
    "novelty": "how new its messages are",
    "order": "the order of its messages",
    "bigrams": "messages that never stand side by side in training",
    "surprise": "messages that the model did not expect",
    "timing": "its length, duration and gaps",
    "numbers": "the numbers in its messages and the times between them",
    "words": "the words in its messages",
    "embedding": "the session as the model sees it",
    "profile": "all of it together",
    "extremes": "how far out it is in many ways at once",
}
#: Components are named where held-out normal sessions are as extreme less often than this, so many at most.
NAMED_P, N_NAMED_VIEWS = 0.05, 2


def as_a_whole(p_values: Mapping[str, float]) -> str:
    """Why a session without a guilty line is an anomaly: what the components saw that spoke most clearly against it."""
    strongest: dict[str, tuple[float, str]] = {}
    for name, p_value in p_values.items():
        detector, _, view = name.rpartition(":")
        if p_value <= NAMED_P and p_value < strongest.get(view, (1.0, ""))[0]:
            strongest[view] = (p_value, detector)
    named = sorted(strongest.items(), key=lambda item: item[1])[:N_NAMED_VIEWS]
    seen = [f"{VIEWS.get(view, view)} ({f'{by}, ' if by else ''}p = {p_text(p)})" for view, (p, by) in named]
    return f"Unusual as a whole{': ' if seen else ''}{' and '.join(seen)}; no single line stands out"


def _seen_in(facts: Mapping[str, float]) -> str:
    """How many training sessions hold a message, and whether they look normal."""
    of = f"{int(facts['of']):,} training sessions"
    if not facts["seen_in"]:
        return f"none of {of}"
    if facts["seen_in_normal"]:
        return f"only {int(facts['seen_in']):,} of {of}"
    themselves = "looks abnormal itself" if facts["seen_in"] == 1 else "look abnormal themselves"
    return f"only {int(facts['seen_in']):,} of {of}, which {themselves}"


def _but_for(reason: Reason, templates: Sequence[str]) -> str:
    """What tells a new message from the known one nearest to it, where that is but a word or two."""
    if "nearest" not in reason.facts:
        return ""
    new, known = (words_of(templates[event]) for event in (reason.event, int(reason.facts["nearest"])))
    if not 0 < len(new - known) <= MAX_NEW_WORDS or len(new & known) < 2 * len(new - known):
        return ""
    words = " and ".join(quoted(word) for word in sorted(new - known))
    return f"; but for {words} it is a known one"


def _times(count: float) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(int(count), f"{int(count):,} times")
