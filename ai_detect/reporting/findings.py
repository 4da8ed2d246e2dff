"""What detect writes for programs: anomalies.jsonl, scores.csv and summary.json."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ai_detect.reporting.explain import Explanation, NearestNormal
from ai_detect.reporting.notes import data_quality_notes, detection_notes, drift_notes
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.wording import as_a_whole, cut, decodable, rfc3339, sentence
from ai_detect.tables import NO_TIME, BoolArray, EventTable, Float64Array, Int64Array, ScoreTable, SessionTable

SCHEMA_VERSION = 1
#: Largest p-value of each severity, the gravest first; what is above them all is low.
SEVERITIES = (("critical", 1e-6), ("high", 1e-4), ("medium", 1e-3))
SEVERITY_NAMES = (*(name for name, _ in SEVERITIES), "low")
#: Longest raw text in a finding; the rest is in the log at its line.
MAX_TEXT = 2000

RawLines = Mapping[int, Sequence[str]]  # the physical lines of a message by its row in the EventTable


@dataclass(frozen=True)
class ModelIdentity:
    """Which model said it: the training run, its step, and the hash of the model's content."""

    run_id: str
    step: int
    hash: str


@dataclass(frozen=True)
class SessionSpans:
    """Where each session begins and ends: lines from 1, messages whole, and times in ns, NO_TIME where absent."""

    source: Int64Array  # index of the file of its first line
    first_line: Int64Array
    last_line: Int64Array
    start_time: Int64Array
    end_time: Int64Array


def session_spans(events: EventTable, sessions: SessionTable) -> SessionSpans:
    """Line range and times of every session; sessions hold at least one event each."""
    if not len(sessions):
        return SessionSpans(*(np.zeros(0, np.int64) for _ in range(5)))
    first, last = sessions.rows[sessions.offsets[:-1]], sessions.rows[sessions.offsets[1:] - 1]
    source_of = _sources(events, first), _sources(events, last)
    follower = np.minimum(last + 1, len(events) - 1)
    same_file = (last + 1 < len(events)) & (_sources(events, follower) == source_of[1])
    file_lines = np.array([source.n_lines for source in events.sources], np.int64)
    times = events.timestamp[sessions.rows]
    latest = np.iinfo(np.int64).max
    start = np.minimum.reduceat(np.where(times == NO_TIME, latest, times), sessions.offsets[:-1])
    return SessionSpans(
        source=source_of[0],
        first_line=events.line[first].astype(np.int64),
        last_line=np.where(same_file, events.line[follower].astype(np.int64) - 1, file_lines[source_of[1]]),
        start_time=np.where(start == latest, NO_TIME, start),
        end_time=np.maximum.reduceat(times, sessions.offsets[:-1]),
    )


def _sources(events: EventTable, rows: Int64Array) -> Int64Array:
    starts = np.array([source.first_event for source in events.sources], np.int64)
    return np.searchsorted(starts, rows, side="right").astype(np.int64) - 1


def rank_anomalies(scores: ScoreTable, top_k: int | None = None) -> Int64Array:
    """Sessions that are anomalies, the most abnormal first, equal ones in input order."""
    found = np.flatnonzero(scores.is_anomaly)
    return found[np.lexsort((scores.p_value[found], -scores.score[found]))][:top_k]


def severity(p_value: float) -> str:
    """critical, high, medium or low."""
    return next((name for name, limit in SEVERITIES if p_value <= limit), "low")


def build_findings(
    events: EventTable,
    sessions: SessionTable,
    scores: ScoreTable,
    explanations: Mapping[int, Explanation],
    *,
    raw_lines: RawLines,
    model: ModelIdentity,
) -> list[dict[str, Any]]:
    """One JSON object for each explained session, in the order of `explanations`; keys in the order of the schema.

    `raw_lines` must hold the rows of `rows_of_reasons`; a row that is not there has the text null.
    """
    spans = session_spans(events, sessions)
    starts, ends = rfc3339(spans.start_time), rfc3339(spans.end_time)
    findings = []
    for session, explanation in explanations.items():
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
        reasons = [_reason(reason, events, rows, raw_lines) for reason in explanation.reasons]
        p_value = float(scores.p_value[session])
        p_values = {name: float(column[session]) for name, column in scores.p_values.items()}
        findings.append(
            {
                "schema_version": SCHEMA_VERSION,
                "session": decodable(sessions.keys[session]),
                "source": place,
                "start_time": starts[session],
                "end_time": ends[session],
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
        )
    return findings


def rows_of_reasons(sessions: SessionTable, explanations: Mapping[int, Explanation]) -> Int64Array:
    """Event rows whose raw text the findings quote, ascending."""
    rows = [
        int(sessions.rows_of(session)[_anchor(reason)])
        for session, explanation in explanations.items()
        for reason in explanation.reasons
    ]
    return np.unique(np.array(rows, np.int64))


def _anchor(reason: Reason) -> int:
    """The event whose line stands for the reason: its first, or the one before the hole."""
    return reason.positions[0] if reason.positions else max((reason.slot or 0) - 1, 0)


def _reason(reason: Reason, events: EventTable, rows: Int64Array, raw_lines: RawLines) -> dict[str, Any]:
    row = int(rows[_anchor(reason)])
    text = raw_lines.get(row) if reason.positions else None
    nearest = reason.facts.get("nearest")
    return {
        "kind": reason.kind,
        "line": int(events.line[row]),
        "text": None if text is None else cut(decodable("\n".join(text)), MAX_TEXT),
        "template": None if reason.kind == "length" else decodable(events.templates[reason.event]),
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


def anomalies_jsonl(findings: Iterable[Mapping[str, Any]]) -> str:
    """One line of ASCII JSON a finding."""
    return "".join(json.dumps(finding, ensure_ascii=True, allow_nan=False) + "\n" for finding in findings)


def scores_csv(events: EventTable, sessions: SessionTable, scores: ScoreTable) -> str:
    """One row a session in input order, then each component's raw score; an absent time or score is an empty cell."""
    spans = session_spans(events, sessions)
    components = [[_cell(value) for value in column.tolist()] for column in scores.raw.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [
        "session",
        "first_line",
        "last_line",
        "start_time",
        "end_time",
        "n_events",
        "score",
        "p_value",
        "is_anomaly",
    ]
    writer.writerow([*head, *scores.raw])
    writer.writerows(
        zip(
            [decodable(key) for key in sessions.keys],
            spans.first_line.tolist(),
            spans.last_line.tolist(),
            rfc3339(spans.start_time),
            rfc3339(spans.end_time),
            np.diff(sessions.offsets).tolist(),
            scores.score.tolist(),
            scores.p_value.tolist(),
            scores.is_anomaly.astype(np.int64).tolist(),
            *components,
            strict=True,
        )
    )
    return text.getvalue()


def suspects_csv(
    events: EventTable,
    sessions: SessionTable,
    suspected: BoolArray,
    suspicion: Float64Array,
    learned_from: BoolArray,
) -> str:
    """One row a suspected training session, the most suspicious first.

    `suspected` and `learned_from` (n_sessions,), `suspicion` (n_suspected,) the -ln p of the suspected ones in their
    order, by detectors that did not know them.
    """
    spans = session_spans(events, sessions)
    order = np.argsort(-suspicion, kind="stable")
    worst = np.flatnonzero(suspected)[order]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["session", "file", "first_line", "last_line", "start_time", "suspicion_nats", "learned_from"])
    writer.writerows(
        zip(
            [decodable(sessions.keys[session]) for session in worst.tolist()],
            [decodable(events.sources[source].path) for source in spans.source[worst].tolist()],
            spans.first_line[worst].tolist(),
            spans.last_line[worst].tolist(),
            rfc3339(spans.start_time[worst]),
            [f"{nats:.6g}" for nats in suspicion[order].tolist()],
            ["yes" if is_known else "no" for is_known in learned_from[worst].tolist()],
            strict=True,
        )
    )
    return text.getvalue()


def _cell(value: float) -> str:
    return f"{value:.9g}" if np.isfinite(value) else ""


def summarise(
    events: EventTable,
    sessions: SessionTable,
    scores: ScoreTable,
    findings: Sequence[Mapping[str, Any]],
    *,
    model: ModelIdentity,
    detection: Mapping[str, Any],
    timings_s: Mapping[str, float],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The object of summary.json.

    `detection` says how the threshold came about, as `LogAnomalyPipeline.detection`; it is kept as it is.
    """
    spans = session_spans(events, sessions)
    known = spans.start_time[spans.start_time != NO_TIME]
    first = rfc3339(known.min(keepdims=True))[0] if len(known) else None
    last = rfc3339(spans.end_time.max(keepdims=True))[0] if len(known) else None
    n_anomalies = int(scores.is_anomaly.sum())
    n_unseen = int((events.event_id >= events.n_known).sum())
    return {
        "schema_version": SCHEMA_VERSION,
        "n_lines": sum(source.n_lines for source in events.sources),
        "n_events": len(events),
        "n_sessions": len(sessions),
        "n_anomalies": n_anomalies,
        "anomaly_rate": n_anomalies / max(len(sessions), 1),
        "threshold": float(scores.threshold),
        "detection": dict(detection),
        "first_time": first,
        "last_time": last,
        "severities": _tally((finding["severity"] for finding in findings), SEVERITY_NAMES),
        "reasons": dict(
            Counter(finding["reasons"][0]["kind"] for finding in findings if finding["reasons"]).most_common()
        ),
        "n_templates": len(events.templates),
        "n_unseen_templates": len(events.templates) - events.n_known,
        "unseen_event_share": n_unseen / max(len(events), 1),
        "files": [
            {"file": decodable(source.path), "n_lines": source.n_lines, "n_bytes": source.n_bytes}
            for source in events.sources
        ],
        "counters": dict(events.counters),
        "notes": [
            *detection_notes(detection),
            *drift_notes(findings, len(sessions)),
            *data_quality_notes(events, sessions),
        ],
        "timings_s": {name: round(seconds, 3) for name, seconds in timings_s.items()},
        "model": asdict(model),
        "versions": dict(versions),
    }


def _tally(names: Iterable[str], all_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: counts[name] for name in all_names}
