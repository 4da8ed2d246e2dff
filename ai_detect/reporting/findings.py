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
from ai_detect.reporting.novelty import one_word_apart
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.wording import (
    as_a_whole,
    cut,
    decodable,
    p_text,
    percent,
    quoted,
    rfc3339,
    sentence,
    visible,
)
from ai_detect.tables import NO_TIME, BoolArray, EventTable, Float64Array, Int64Array, ScoreTable, SessionTable

SCHEMA_VERSION = 1
#: Largest p-value of each severity, the gravest first; what is above them all is low.
SEVERITIES = (("critical", 1e-6), ("high", 1e-4), ("medium", 1e-3))
SEVERITY_NAMES = (*(name for name, _ in SEVERITIES), "low")
#: Longest raw text in a finding; the rest is in the log at its line.
MAX_TEXT = 2000
#: Longest name of a session in a note.
MAX_NAME = 80
#: Where training lists the sessions of its log that look abnormal.
SUSPECTS_FILE = "training_suspects.csv"

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
        "notes": [*detection_notes(detection), *data_quality_notes(events, sessions, scores)],
        "timings_s": {name: round(seconds, 3) for name, seconds in timings_s.items()},
        "model": asdict(model),
        "versions": dict(versions),
    }


def _tally(names: Iterable[str], all_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: counts[name] for name in all_names}


#: What a rule was asked for: {share} or {n}, the number that was given, and {rate}, the false-alarm rate that it is.
_ASKED = {
    "false_alarm_rate": "{share} false alarms",
    "max_alerts_per_day": "{n:g} false alarms a day ({rate} of normal sessions)",
    "fdr": "{share} false alarms among all alarms",
    "contamination": "{share} anomalies in the training log",
    "threshold": "a score of {n:g}",
}


def threshold_origin(detection: Mapping[str, Any]) -> str:
    """What the threshold is for, in a few words; `detection` as in summary.json."""
    rate = percent(detection["false_alarm_rate"])
    if detection["asked"] is None:
        return f"the model's own ({rate} of normal sessions)"
    return "for " + _asked(detection)


def _asked(detection: Mapping[str, Any]) -> str:
    asked, rate = detection["asked"], percent(detection["false_alarm_rate"])
    return _ASKED[detection["rule"]].format(share=percent(min(asked, 1)), n=asked, rate=rate)


def calibration_limit(detection: Mapping[str, Any]) -> str:
    """How small a false-alarm rate the calibration shows; `detection` as in summary.json."""
    n, least = detection["n_calibration_sessions"], detection["smallest_supported_rate"]
    return f"{n:,} calibration session{'' if n == 1 else 's'} can show {percent(least)} false alarms and more"


def detection_notes(detection: Mapping[str, Any]) -> list[str]:
    """What a reader should know about threshold and training log, one sentence each; empty where all is well."""
    notes = []
    rate = detection["false_alarm_rate"]
    if detection["rule"] in ("false_alarm_rate", "max_alerts_per_day", "fdr") and (
        rate < detection["smallest_supported_rate"]
    ):
        notes.append(
            f"{_asked(detection)}: this takes p-values of {p_text(rate)} and less, but {calibration_limit(detection)}; "
            "the rest is extrapolated by a fitted tail, so train on more sessions to be sure"
        )
    if (found := detection["training_suspects"]) is not None:
        n, n_suspected, n_kept = found["n_sessions"], found["n_suspected"], found["n_learned_from"]
        not_learned = "were not learned from" if n_kept == 0 else f"{n_suspected - n_kept:,} of them not learned from"
        names = ", ".join(cut(visible(name), MAX_NAME) for name in found["most_suspicious"])
        notes.append(
            f"the training log itself looks dirty: {n_suspected:,} of {n:,} sessions ({percent(n_suspected / n)}) are "
            f"suspected and {not_learned}; the most suspicious: {names} ({SUSPECTS_FILE} of the training)"
        )
    return notes


#: What ingest counted and people should know: {n} is the number.
_COUNTER_NOTES = {
    "n_undecodable": "{n} lines hold bytes that are not in the log's encoding; the bytes were kept",
    "n_truncated": "{n} lines were longer than the limit and were cut",
    "n_shortened": "{n} messages were too long to be compared in full length",
    "n_no_header": "{n} messages do not have the log's header",
    "n_no_session": "{n} messages have no session key and were not scored",
    "n_out_of_order": "{n} messages are earlier than the message before them",
}


#: From so many new messages on that differ from a known one in one word, if they are half of them, masks are missing;
#: so many are compared.
MANY_UNMASKED, MAX_COMPARED = 20, 10_000


def data_quality_notes(events: EventTable, sessions: SessionTable, scores: ScoreTable) -> list[str]:
    """What a reader of the results should know about the input, one sentence each; empty where all is well."""
    notes = [
        text.format(n=f"{events.counters[name]:,}")
        for name, text in _COUNTER_NOTES.items()
        if events.counters.get(name)
    ]
    unseen = float((events.event_id >= events.n_known).mean()) if len(events) else 0.0
    if unseen > 0.05:
        notes.append(
            f"{percent(unseen)} of the lines are messages that training never saw: retrain if the software changed"
        )
    new = events.templates[events.n_known : events.n_known + MAX_COMPARED]
    words = one_word_apart(events.templates[: events.n_known], new)
    if len(words) >= max(MANY_UNMASKED, len(new) / 2):
        examples = " and ".join(map(quoted, list(dict.fromkeys(words))[:2]))
        notes.append(
            f"{len(words):,} of {len(new):,} new messages are known ones but for one word, such as {examples}: a name "
            "or id that no mask covers; train with a mask for it (--drain_config), and what is truly new stands out"
        )
    without_time = float((events.timestamp == NO_TIME).mean()) if len(events) else 0.0
    if without_time > 0:
        notes.append(f"{percent(without_time)} of the lines have no time: gaps before them are not judged")
    rate = float(scores.is_anomaly.mean()) if len(scores) else 0.0
    if rate > 0.2:
        notes.append(
            f"{percent(rate)} of the sessions are over the threshold: this log differs from the training log as a whole"
        )
    if len(sessions) and float(np.median(np.diff(sessions.offsets))) < 2:
        notes.append("most sessions have a single line: a session key that groups more lines would tell more")
    return notes
