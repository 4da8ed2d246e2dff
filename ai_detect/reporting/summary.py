"""What detect says of a log as a whole: summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.findings import SCHEMA_VERSION, SEVERITY_NAMES, AnomalyTally, ModelIdentity
from ai_detect.reporting.notes import data_quality_notes, detection_notes, drift_notes
from ai_detect.reporting.spans import SessionSpans
from ai_detect.reporting.wording import decodable, rfc3339
from ai_detect.tables import NO_TIME, EventTable, Int64Array, ScoreTable, SessionTable


def summarise(
    events: EventTable,
    sessions: SessionTable,
    spans: SessionSpans,
    scores: ScoreTable,
    tally: AnomalyTally,
    *,
    model: ModelIdentity,
    detection: Mapping[str, Any],
    timings_s: Mapping[str, float],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The object of summary.json.

    `detection` says how the threshold came about, as `LogAnomalyPipeline.detection`; it is kept as it is.
    """
    n_anomalies = int(np.count_nonzero(scores.is_anomaly))
    n_unseen = int(events.tally.counts[events.n_known :].sum())
    return {
        "schema_version": SCHEMA_VERSION,
        "n_lines": sum(source.n_lines for source in events.sources),
        "n_events": len(events),
        "n_sessions": len(sessions),
        "n_anomalies": n_anomalies,
        "anomaly_rate": n_anomalies / max(len(sessions), 1),
        "threshold": float(scores.threshold),
        "detection": dict(detection),
        "first_time": _text(_extreme(spans.start_time, np.min)),
        "last_time": _text(_extreme(spans.end_time, np.max)),
        "severities": {name: tally.severities[name] for name in SEVERITY_NAMES},
        "reasons": dict(tally.reasons.most_common()),
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
            *drift_notes(tally, len(sessions)),
            *data_quality_notes(events, sessions),
        ],
        "timings_s": {name: round(seconds, 3) for name, seconds in timings_s.items()},
        "model": asdict(model),
        "versions": dict(versions),
    }


def _extreme(times: Int64Array, of: Any) -> int | None:
    """The first or last of the times that are known."""
    parts = (times[block][times[block] != NO_TIME] for block in scratch.blocks(len(times)))
    found = [int(of(part)) for part in parts if len(part)]
    return int(of(found)) if found else None


def _text(time: int | None) -> str | None:
    return None if time is None else rfc3339(np.array([time], np.int64))[0]
