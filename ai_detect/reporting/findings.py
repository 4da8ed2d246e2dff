"""What detect says of each anomaly, for programs: the objects of anomalies.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from ai_detect.reporting.explain import Explanation, NearestNormal
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.spans import SessionSpans
from ai_detect.reporting.wording import as_a_whole, cut, decodable, sentence
from ai_detect.tables import EventTable, Int64Array, ScoreTable, SessionTable, StringColumn

SCHEMA_VERSION = 1
#: Largest p-value of each severity, the gravest first; what is above them all is low.
SEVERITIES = (("critical", 1e-6), ("high", 1e-4), ("medium", 1e-3))
SEVERITY_NAMES = (*(name for name, _ in SEVERITIES), "low")
#: Longest raw text in a finding; the rest is in the log at its line.
MAX_TEXT = 2000
#: What stands in JSON for a text that is not there yet, and nowhere else: quotes within a string have a backslash.
_NO_TEXT = '"text": null'

RawLines = Mapping[int, Sequence[str]]  # the physical lines of a message by its row in the EventTable


@dataclass(frozen=True)
class ModelIdentity:
    """Which model said it: the training run, its step, and the hash of the model's content."""

    run_id: str
    step: int
    hash: str


class FirstReason(NamedTuple):
    """What the strongest reason of an anomaly says, as its finding does."""

    kind: str
    template: str | None


def first_reason(explanation: Explanation, templates: Sequence[str]) -> FirstReason | None:
    """The strongest reason; None where there is none."""
    reasons = explanation.reasons
    return FirstReason(reasons[0].kind, _template(reasons[0], templates)) if reasons else None


class AnomalyTally:
    """What is counted of all findings while they pass by."""

    def __init__(self) -> None:
        self.n = 0
        self.severities: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # kinds of the first reasons
        self.alike: Counter[FirstReason] = Counter()
        self.example: dict[FirstReason, str] = {}  # the first session of each

    def add(self, session: str, p_value: float, first: FirstReason | None) -> None:
        """Count one more anomaly; the most abnormal come first."""
        self.n += 1
        self.severities[severity(p_value)] += 1
        if first is not None:
            self.reasons[first.kind] += 1
            self.alike[first] += 1
            self.example.setdefault(first, session)


class Findings(Sequence[dict[str, Any]]):
    """Findings as lines of ASCII JSON, read when they are asked for."""

    def __init__(self, lines: StringColumn) -> None:
        self.lines = lines

    @classmethod
    def of(cls, findings: Iterable[Mapping[str, Any]]) -> Findings:
        """These findings, which are not held all at once."""
        return cls(StringColumn.of(json.dumps(found, ensure_ascii=True, allow_nan=False) for found in findings))

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [json.loads(line) for line in self.lines[index]]
        found: dict[str, Any] = json.loads(self.lines[index])
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.lines)

    def jsonl(self) -> Iterator[str]:
        """One line a finding."""
        return (f"{line}\n" for line in self.lines)


def rank_anomalies(scores: ScoreTable, top_k: int | None = None) -> Int64Array:
    """Sessions that are anomalies, the most abnormal first, equal ones in input order."""
    found = np.flatnonzero(scores.is_anomaly)
    return found[np.lexsort((scores.p_value[found], -scores.score[found]))][:top_k]


def severity(p_value: float) -> str:
    """critical, high, medium or low."""
    return next((name for name, limit in SEVERITIES if p_value <= limit), "low")


def build_finding(
    session: int,
    explanation: Explanation,
    events: EventTable,
    sessions: SessionTable,
    spans: SessionSpans,
    scores: ScoreTable,
    model: ModelIdentity,
) -> dict[str, Any]:
    """The JSON object of one explained session, keys in the order of the schema; its texts are still null."""
    rows = sessions.rows_of(session)
    source, last_source = events.source_of(int(rows[0])), events.source_of(int(rows[-1]))
    place = {
        "file": decodable(source.path),
        "line_start": int(spans.first_line[session]),
        "line_end": int(spans.last_line[session]),
        "byte_offset": int(events.offset[rows[0]]),
    }
    if last_source is not source:
        place["file_end"] = decodable(last_source.path)
    reasons = [_reason(reason, events, rows) for reason in explanation.reasons]
    p_value = float(scores.p_value[session])
    p_values = {name: float(column[session]) for name, column in scores.p_values.items()}
    one = slice(session, session + 1)
    return {
        "schema_version": SCHEMA_VERSION,
        "session": decodable(sessions.keys[session]),
        "source": place,
        "start_time": spans.starts(one)[0],
        "end_time": spans.ends(one)[0],
        "n_events": len(rows),
        "score": float(scores.score[session]),
        "p_value": p_value,
        "threshold": float(scores.threshold),
        "severity": severity(p_value),
        "summary": reasons[0]["sentence"] if reasons else as_a_whole(p_values),
        "reasons": reasons,
        "nearest_normal": _nearest(explanation.nearest, events),
        "detectors": {
            name: {
                "raw": _finite(scores.raw[name][session]),
                "calibrated": _finite(1 - p_values[name]),
                "p_value": _finite(p_values[name]),
            }
            for name in scores.raw
        },
        "suppressed_by": None,
        "model": asdict(model),
    }


def quoted_rows(explanation: Explanation, rows: Int64Array) -> list[int]:
    """For each reason the event row whose raw text it quotes, -1 for none; `rows` are those of the session."""
    return [int(rows[_anchor(reason)]) if reason.positions else -1 for reason in explanation.reasons]


def with_texts(finding: str, rows: Sequence[int], raw_lines: RawLines) -> str:
    """The JSON of a finding with the texts that its reasons quote; `rows` as `quoted_rows`."""
    parts = finding.split(_NO_TEXT)
    filled = [parts[0]]
    for row, part in zip(rows, parts[1:], strict=True):
        lines = raw_lines.get(row)
        text = None if lines is None else cut(decodable("\n".join(lines)), MAX_TEXT)
        filled += [_NO_TEXT.replace("null", json.dumps(text)), part]
    return "".join(filled)


def _template(reason: Reason, templates: Sequence[str]) -> str | None:
    return None if reason.kind == "length" else decodable(templates[reason.event])


def _anchor(reason: Reason) -> int:
    """The event whose line stands for the reason: its first, or the one before the hole."""
    return reason.positions[0] if reason.positions else max((reason.slot or 0) - 1, 0)


def _reason(reason: Reason, events: EventTable, rows: Int64Array) -> dict[str, Any]:
    row = int(rows[_anchor(reason)])
    nearest = reason.facts.get("nearest")
    return {
        "kind": reason.kind,
        "line": int(events.line[row]),
        "text": None,
        "template": _template(reason, events.templates),
        "expected": [
            {"template": decodable(events.templates[event]), "probability": round(chance, 4)}
            for event, chance in reason.expected
        ],
        "contribution": round(reason.contribution, 4),
        "lines": [int(line) for line in events.line[rows[list(reason.positions)]]],
        "sentence": sentence(reason, events.templates),
        "facts": {name: value for name, value in reason.facts.items() if name != "nearest" and np.isfinite(value)},
        "nearest_template": None if nearest is None else decodable(events.templates[int(nearest)]),
    }


def _nearest(nearest: NearestNormal | None, events: EventTable) -> dict[str, Any] | None:
    if nearest is None:
        return None
    changed = {mark: Counter(row.event for row in nearest.diff if row.mark == mark) for mark in ("missing", "extra")}
    return {
        "session": decodable(nearest.key),
        "n_seen": nearest.n_seen,
        "similarity": round(nearest.similarity, 4),
        **{
            mark: [{"template": decodable(events.templates[event]), "count": count} for event, count in counts.items()]
            for mark, counts in changed.items()
        },
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
