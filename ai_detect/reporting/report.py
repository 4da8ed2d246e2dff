"""The page that people read: report.html of detect, one file without any request to elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from ai_detect.reporting.excerpt import make_excerpt, rows_of_excerpts
from ai_detect.reporting.explain import Explanation, NearestNormal
from ai_detect.reporting.findings import SEVERITY_NAMES, RawLines, rows_of_reasons, session_spans
from ai_detect.reporting.notes import calibration_limit, threshold_origin
from ai_detect.reporting.page import WIDE, both, render
from ai_detect.reporting.wording import duration
from ai_detect.tables import (
    NO_TIME,
    EventTable,
    Int8Array,
    Int64Array,
    ScoreTable,
    SessionTable,
)

#: Rows of the table of all anomalies, of one card's list of alike sessions, and of the table of templates.
MAX_FINDINGS, MAX_ALIKE, MAX_TEMPLATES = 300, 20, 200


@dataclass(frozen=True)
class ScoredLog:
    """All that a page tells of a scored log; `findings` are parallel to `explanations`, the most abnormal first."""

    events: EventTable
    sessions: SessionTable
    scores: ScoreTable
    explanations: Mapping[int, Explanation]
    findings: Sequence[Mapping[str, Any]]
    raw_lines: RawLines  # at least the rows of `rows_to_read`
    summary: Mapping[str, Any]


def alike_anomalies(explanations: Mapping[int, Explanation]) -> list[tuple[int, ...]]:
    """Sessions with the same first reason, in the order of `explanations`; a page has one card for each group."""
    groups: dict[object, list[int]] = {}
    for session, explanation in explanations.items():
        first = explanation.reasons[0] if explanation.reasons else None
        groups.setdefault(None if first is None else (first.kind, first.event), []).append(session)
    return [tuple(group) for group in groups.values()]


def rows_to_read(
    events: EventTable, sessions: SessionTable, explanations: Mapping[int, Explanation], top_k: int
) -> Int64Array:
    """Event rows, ascending, whose raw lines the findings and a page with `top_k` cards quote."""
    shown = [group[0] for group in alike_anomalies(explanations)[:top_k]]
    rows = [
        rows_of_reasons(sessions, explanations),
        rows_of_excerpts(sessions, explanations, shown),
        np.array([row for _, _, row in _common_templates(events)], np.int64),
    ]
    return np.unique(np.concatenate(rows))


def detection_report(
    log: ScoredLog,
    *,
    top_k: int = 50,
    history: Sequence[Mapping[str, Any]] = (),
    resume_steps: Sequence[int] = (),
) -> str:
    """The page of detect; `history` holds rows {step, train_loss, val_loss, learning_rate} of the training run."""
    from ai_detect.reporting import plots  # matplotlib takes a third of a second, which only pages need

    return render(
        "detection.html.j2",
        **log_parts(log, top_k, None),
        training=both(lambda width: plots.training_curves(history, resume_steps, width)) if history else None,
    )


def log_parts(log: ScoredLog, top_k: int, labels: Int8Array | None) -> dict[str, Any]:
    """What both pages show of a scored log."""
    from ai_detect.reporting import plots

    groups = alike_anomalies(log.explanations)
    finding_of = dict(zip(log.explanations, log.findings, strict=True))
    cards = [_card(log, number, group, finding_of, labels) for number, group in enumerate(groups[:top_k], start=1)]
    numbers = {group[0]: number for number, group in enumerate(groups[:top_k], start=1)}
    when = session_spans(log.events, log.sessions).start_time
    scores = log.scores
    return {
        "summary": log.summary,
        "threshold_origin": threshold_origin(log.summary["detection"]),
        "calibration_limit": calibration_limit(log.summary["detection"]),
        "cards": cards,
        "n_groups": len(groups),
        "findings": [(finding_of[session], numbers.get(session)) for session in list(log.explanations)[:MAX_FINDINGS]],
        "n_findings": len(log.findings),
        "severities": [(name, log.summary["severities"].get(name, 0)) for name in SEVERITY_NAMES],
        "timeline": both(
            lambda width: plots.score_timeline(scores.score, scores.is_anomaly, when, scores.threshold, numbers, width)
        ),
        "distribution": both(lambda width: plots.score_distribution(scores.score, scores.threshold, width), WIDE / 2),
        "templates": [
            {
                "template": log.events.templates[event],
                "is_new": event >= log.events.n_known,
                "count": count,
                "share": count / len(log.events),
                "file": log.events.source_of(row).path,
                "line": int(log.events.line[row]),
                "example": "\n".join(log.raw_lines.get(row, ())[:1])[:300],
            }
            for event, count, row in _common_templates(log.events)
        ],
    }


def _common_templates(events: EventTable) -> list[tuple[int, int, int]]:
    """(event, lines, row of the first) of the commonest templates; a third of the places is for unseen ones."""
    found, first, counts = np.unique(events.event_id, return_index=True, return_counts=True)
    order = np.lexsort((found, -counts))
    new = order[found[order] >= events.n_known][: MAX_TEMPLATES // 3]
    known = order[found[order] < events.n_known][: MAX_TEMPLATES - len(new)]
    chosen = np.sort(np.concatenate([known, new]))
    chosen = chosen[np.argsort(-counts[chosen], kind="stable")]
    return [(int(found[at]), int(counts[at]), int(first[at])) for at in chosen]


def _card(
    log: ScoredLog,
    number: int,
    group: tuple[int, ...],
    finding_of: Mapping[int, Mapping[str, Any]],
    labels: Int8Array | None,
) -> dict[str, Any]:
    session = group[0]
    explanation, finding = log.explanations[session], finding_of[session]
    start, end = session_spans_of(log, session)
    p_values = {name: float(column[session]) for name, column in log.scores.p_values.items()}
    times = [finding_of[other]["start_time"] for other in group if finding_of[other]["start_time"]]
    return {
        "number": number,
        "finding": finding,
        "took": None if NO_TIME in (start, end) else duration(max(end - start, 0) / 1e9),
        "rows": make_excerpt(log.events, log.sessions.rows_of(session), explanation, log.raw_lines),
        "reasons": finding["reasons"],
        "diff": None if explanation.nearest is None else _folded_diff(explanation.nearest, log.events),
        "votes": [
            {"name": name, "p": p_values[name], "bar": round(min(-math.log10(max(p_values[name], 1e-300)), 8) / 8, 3)}
            for name in sorted(p_values, key=lambda name: (p_values[name], name))
            if math.isfinite(p_values[name])
        ],
        "alike": [finding_of[other] for other in group[1 : 1 + MAX_ALIKE]],
        "n_alike": len(group) - 1,
        "first_seen": min(times, default=None),
        "last_seen": max(times, default=None),
        "label": None if labels is None or labels[session] < 0 else ("normal", "anomaly")[labels[session]],
    }


def session_spans_of(log: ScoredLog, session: int) -> tuple[int, int]:
    """Start and end of one session in ns, NO_TIME where absent."""
    times = log.events.timestamp[log.sessions.rows_of(session)]
    known = times[times != NO_TIME]
    return (int(known.min()), int(known.max())) if len(known) else (NO_TIME, NO_TIME)


def _folded_diff(nearest: NearestNormal, events: EventTable) -> list[tuple[str, str, int]]:
    """Rows (mark, template, n) of the comparison; equal ones that are not beside a difference become (fold, "", n)."""
    differs = [row.mark != "same" for row in nearest.diff]
    near = [any(differs[max(at - 1, 0) : at + 2]) for at in range(len(differs))]
    rows: list[tuple[str, str, int]] = []
    for is_near, part in groupby(zip(near, nearest.diff, strict=True), key=lambda pair: pair[0]):
        run = [row for _, row in part]
        if is_near or len(run) == 1:
            for (mark, event), same in groupby(run, key=lambda row: (row.mark, row.event)):
                rows.append((mark, events.templates[event][:300], len(list(same))))
        else:
            rows.append(("fold", "", len(run)))
    return rows[:80]
