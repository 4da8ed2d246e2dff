"""The page that people read: report.html of detect, one file without any request to elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ai_detect.reporting.excerpt import make_excerpt
from ai_detect.reporting.explain import NearestNormal
from ai_detect.reporting.findings import SEVERITY_NAMES
from ai_detect.reporting.notes import calibration_limit, threshold_origin
from ai_detect.reporting.page import WIDE, both, render
from ai_detect.reporting.scored_log import ScoredLog, common_templates
from ai_detect.reporting.wording import duration, rfc3339
from ai_detect.tables import NO_TIME, EventTable, Int8Array

#: Rows of the table of all anomalies, and of one card's list of alike sessions.
MAX_FINDINGS, MAX_ALIKE = 300, 20


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

    groups = log.groups
    cards = [_card(log, number, group, labels) for number, group in enumerate(groups[:top_k], start=1)]
    numbers = {int(log.ranked[group[0]]): number for number, group in enumerate(groups[:top_k], start=1)}
    when = log.spans.start_time
    scores = log.scores
    return {
        "summary": log.summary,
        "threshold_origin": threshold_origin(log.summary["detection"]),
        "calibration_limit": calibration_limit(log.summary["detection"]),
        "cards": cards,
        "n_groups": len(groups),
        "findings": [
            (finding, numbers.get(session))
            for finding, session in zip(log.findings[:MAX_FINDINGS], log.ranked[:MAX_FINDINGS].tolist(), strict=True)
        ],
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
            for event, count, row in common_templates(log.events)
        ],
    }


def _card(
    log: ScoredLog,
    number: int,
    group: Sequence[int],
    labels: Int8Array | None,
) -> dict[str, Any]:
    session = int(log.ranked[group[0]])
    explanation, finding = log.explanations[session], log.findings[group[0]]
    start, end = session_spans_of(log, session)
    p_values = {name: float(column[session]) for name, column in log.scores.p_values.items()}
    times = log.spans.start_time[log.ranked[np.array(group)]]
    known = times[times != NO_TIME]
    seen = rfc3339(np.array([known.min(), known.max()]), log.spans.start_decimals) if len(known) else [None, None]
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
        "alike": [log.findings[other] for other in group[1 : 1 + MAX_ALIKE]],
        "n_alike": len(group) - 1,
        "first_seen": seen[0],
        "last_seen": seen[1],
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
